-- NEXT_JOB  the job that a worker is to claim: the highest priority, then the tenant whose turn it is, then its earliest job.
--   ->    id | nil nothing waits
for _, priority in ipairs(PRIORITIES) do
  local tenant = redis.call('ZRANGE', ring_key(priority), 0, 0)[1]
  if tenant then return redis.call('ZRANGE', queue_key(priority, tenant), 0, 0)[1] end
end
return nil
