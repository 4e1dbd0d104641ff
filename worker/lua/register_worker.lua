-- REGISTER_WORKER  a sign of life.
--   ARGV  worker id, what is known of it as JSON, time in ms after which it counts as dead
local id, info, life_ms = unpack(ARGV)
redis.call('ZADD', prefix .. 'workers', now + life_ms, id)
redis.call('HSET', prefix .. 'workers:info', id, info)
