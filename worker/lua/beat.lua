-- BEAT  renews the lease, notes the progress, brings back what was asked of the job.
--   ARGV  id, epoch, lease in ms, progress as JSON or ''
--   ->    {1, requested action or ''} | {0, ''} fenced
local id, epoch, lease_ms, progress = unpack(ARGV)
if not is_ours(id, epoch) then return {0, ''} end
redis.call('ZADD', leases, now + lease_ms, id)
if progress ~= '' then set(id, 'progress', progress) end
return {1, get(id, 'requested') or ''}
