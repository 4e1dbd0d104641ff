-- EXPIRED_LEASES  jobs whose worker has been silent for too long.
--   ->    ids
return redis.call('ZRANGEBYSCORE', leases, '-inf', now)
