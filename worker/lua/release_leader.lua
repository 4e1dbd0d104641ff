-- RELEASE_LEADER  gives the leadership up, if it is held.
--   ARGV  name
if redis.call('GET', prefix .. 'leader') == ARGV[1] then redis.call('DEL', prefix .. 'leader') end
