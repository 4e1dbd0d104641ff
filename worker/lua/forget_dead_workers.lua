-- FORGET_DEAD_WORKERS  removes those without a recent sign of life.
--   ->    their ids
local dead = redis.call('ZRANGEBYSCORE', prefix .. 'workers', '-inf', now)
for _, id in ipairs(dead) do
  redis.call('ZREM', prefix .. 'workers', id)
  redis.call('HDEL', prefix .. 'workers:info', id)
end
return dead
