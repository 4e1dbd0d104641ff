-- EXTEND  appends cycles to a training job, once for each idempotency key; one that has succeeded is queued again.
--   ARGV  id, extensions so far, the amendment as JSON, config as JSON, progress as JSON, tenant, hash of the idempotency key or '',
--         sha256 of the request, life of the key in seconds
--   ->    'ok' | 'replayed' | 'mismatch' | 'missing' | 'invalid' | 'changed' someone else has extended it
local id, extensions, amendment, config, progress, tenant, idempotency_key, body, life = unpack(ARGV)
local submission = submission_key(tenant, idempotency_key)
if idempotency_key ~= '' then
  local known = redis.call('HMGET', submission, 'job', 'body')
  if known[1] and get(known[1], 'status') then return known[2] == body and 'replayed' or 'mismatch' end
end
local status, requested = get(id, 'status'), get(id, 'requested')
if not status then return is_complete() and 'missing' or INCOMPLETE end
if status == 'succeeded' then
  if get(id, 'stop_reason') or redis.call('SISMEMBER', prefix .. 'deleting', id) == 1 then return 'invalid' end
elseif status ~= 'running' or requested == 'stop_now' or requested == 'stop_cycle_end' or requested == 'cancel' then return 'invalid' end
if (get(id, 'extensions') or '0') ~= extensions then return 'changed' end

amend(id, cjson.decode(amendment))
set(id, 'extensions', extensions + 1, 'config', config, 'progress', progress)
if idempotency_key ~= '' then
  redis.call('HSET', submission, 'job', id, 'body', body)
  redis.call('EXPIRE', submission, life)
end
if status == 'succeeded' then
  redis.call('HDEL', job_key(id), 'finished_at', 'arrival')
  set(id, 'crashes', 0)
  redis.call('SREM', prefix .. 'unfiled', id)
  enqueue(id, 'extend', 'client')
else
  emit_state(id, status, get(id, 'phase'), 'extend')
end
return 'ok'
