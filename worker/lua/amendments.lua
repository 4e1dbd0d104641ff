-- AMENDMENTS  what was changed about a job since it was accepted.
--   ARGV  id
--   ->    JSON documents in their order
return redis.call('LRANGE', job_key(ARGV[1], 'amendments'), 0, -1)
