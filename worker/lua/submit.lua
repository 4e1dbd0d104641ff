-- SUBMIT  a new job, once for each idempotency key.
--   ARGV  id, kind, dataset id, hash of the idempotency key or '', sha256 of the body, life of the key in seconds,
--         '1' if it waits for runs of its own, the study whose run it is or '', tenant, then fields and values
--   ->    {'ok' | 'replayed', job id, what GET answers} | {'mismatch', job id} | {'dataset_gone', dataset id}
--         | {'study_over', study} which waits for no run
local id, kind, dataset, idempotency_key, body, life, waits, study, tenant = unpack(ARGV, 1, 9)
local submission = submission_key(tenant, idempotency_key)
if idempotency_key ~= '' then
  local known = redis.call('HMGET', submission, 'job', 'body')
  if known[1] and known[1] ~= id and get(known[1], 'status') then
    if known[2] ~= body then return {'mismatch', known[1]} end
    return {'replayed', known[1], record(known[1])}
  end
end
if get(id, 'status') then return {'ok', id, record(id)} end  -- the same call once more, after its answer was lost
if not is_complete() then return INCOMPLETE end
if redis.call('EXISTS', dataset_key(dataset, 'deleted')) == 1 then return {'dataset_gone', dataset} end
if study ~= '' and redis.call('SISMEMBER', waiting, study) == 0 then return {'study_over', study} end

add(id, kind, dataset, 10, #ARGV)
if idempotency_key ~= '' then
  redis.call('HSET', submission, 'job', id, 'body', body)
  redis.call('EXPIRE', submission, life)
end
if waits == '1' then let_wait(id, 'submitted', 'client') else enqueue(id, 'submitted', 'client') end
return {'ok', id, record(id)}
