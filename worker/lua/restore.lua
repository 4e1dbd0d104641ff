-- RESTORE  a job from what the artifact store has of it: queued, paused, or as it ended. One that exists stays as it is.
--   ARGV  the caller's token, id, kind, dataset id, time of creation in ms, hash of the idempotency key or '', sha256 of the body,
--         life of the key in ms since the creation, '' or status at the end, reason, time of the end in ms, metric rows as lines,
--         '1' if it waits for runs of its own, '1' if it is paused, arrival in the queue in ms, amendments as lines of JSON, number of further fields and values, those, then threes:
--         cycle, manifest as JSON and event data as JSON of a snapshot | 'event', type and data | 'transition', itself as JSON and ''
--   ->    'restored' | 'exists' | 'void' someone else rebuilds
local token, id, kind, dataset, created, key, body, life, status, reason, finished, rows, waits, paused, arrival, amendments, num_fields = unpack(ARGV, 1, 17)
if redis.call('GET', rebuild) ~= token then return 'void' end
if get(id, 'status') then return 'exists' end

local first_snapshot = 18 + num_fields
add(id, kind, dataset, 18, first_snapshot - 1)
-- Its events had numbers from 1 on that nobody knows any more, but never so many: whoever has followed it goes on with these.
set(id, 'seq', now)
if waits == '1' then let_wait(id, 'restored from the artifact store', 'reconciler')
else enqueue(id, 'restored from the artifact store', 'reconciler', arrival .. '000') end
if paused == '1' then park(id, 'reconciler') end
for i = first_snapshot, #ARGV, 3 do
  if ARGV[i] == 'transition' then redis.call('LPUSH', job_key(id, 'transitions'), ARGV[i + 1])  -- those of before, the latest first
  elseif ARGV[i] == 'event' then emit(id, ARGV[i + 1], ARGV[i + 2])
  else
    redis.call('HSET', job_key(id, 'snapshots'), ARGV[i], ARGV[i + 1])
    emit(id, 'snapshot', ARGV[i + 2])
  end
end
for row in string.gmatch(rows, '[^\n]+') do redis.call('RPUSH', job_key(id, 'metrics'), row) end
if status ~= '' then
  finish(id, status, reason, 'reconciler')
  set(id, 'finished_at', finished)
  redis.call('SREM', prefix .. 'unfiled', id)
end

local function restore_key(hash, body, moment)
  local submission, left = submission_key(tenant_of(id), hash), moment + life - now
  local known = redis.call('HGET', submission, 'job')
  if hash ~= '' and left > 0 and (not known or known < id) then  -- of several tries to submit it, the last was acknowledged
    redis.call('HSET', submission, 'job', id, 'body', body)
    redis.call('PEXPIRE', submission, string.format('%.0f', left))
  end
end
restore_key(key, body, created)
for line in string.gmatch(amendments, '[^\n]+') do
  redis.call('RPUSH', job_key(id, 'amendments'), line)
  local amendment = cjson.decode(line)
  if amendment.key then restore_key(amendment.key, amendment.body, amendment.at) end
end
return 'restored'
