-- SUBMIT  a new job, once for each idempotency key.
--   ARGV  id, kind, dataset id, hash of the idempotency key or '', sha256 of the body, life of the key in seconds, then fields and values
--   ->    {'ok' | 'replayed' | 'mismatch', job id} | {'dataset_gone', dataset id}
local id, kind, dataset, idempotency_key, body, life = unpack(ARGV, 1, 6)
local submission = prefix .. 'idempotency:' .. idempotency_key
if idempotency_key ~= '' then
  local known = redis.call('HMGET', submission, 'job', 'body')
  if known[1] and known[1] ~= id and get(known[1], 'status') then
    return {known[2] == body and 'replayed' or 'mismatch', known[1]}
  end
end
if get(id, 'status') then return {'ok', id} end  -- the same call once more, after its answer was lost
if not is_complete() then return INCOMPLETE end
if redis.call('EXISTS', dataset_key(dataset, 'deleted')) == 1 then return {'dataset_gone', dataset} end

add(id, kind, dataset, 7, #ARGV)
if idempotency_key ~= '' then
  redis.call('HSET', submission, 'job', id, 'body', body)
  redis.call('EXPIRE', submission, life)
end
enqueue(id, 'submitted', 'client')
return {'ok', id}
