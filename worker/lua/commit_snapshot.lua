-- COMMIT_SNAPSHOT  makes a stored snapshot visible, once.
--   ARGV  id, epoch, cycle, manifest as JSON, event data as JSON, best snapshot so far as JSON or ''
--   ->    'committed' | 'already' | 'fenced'
local id, epoch, cycle, manifest, event, best = unpack(ARGV)
if not is_ours(id, epoch) then
  count('fenced_commits')
  return 'fenced'
end
if redis.call('HSETNX', job_key(id, 'snapshots'), cycle, manifest) == 0 then return 'already' end
set(id, 'snapshot_count', redis.call('HLEN', job_key(id, 'snapshots')), 'crashes', 0)  -- progress: the crash budget starts again
if best ~= '' then set(id, 'best', best) end
emit(id, 'snapshot', event)
return 'committed'
