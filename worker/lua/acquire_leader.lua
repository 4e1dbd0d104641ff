-- ACQUIRE_LEADER  takes or renews the leadership.
--   ARGV  name of the contender, time in ms for which it is granted
--   ->    1 | 0 someone else has it
local name, life_ms = unpack(ARGV)
local leader = redis.call('GET', prefix .. 'leader')
if leader and leader ~= name then return 0 end
redis.call('SET', prefix .. 'leader', name, 'PX', life_ms)
return 1
