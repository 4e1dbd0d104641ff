-- DOUBT  declares a complete database incomplete, and lets the caller restore the jobs that it lacks.
--   ARGV  the caller's token
--   ->    1 | 0 it was incomplete, so who knows which jobs it lacks
if not is_complete() then return 0 end
redis.call('SET', rebuild, ARGV[1])
redis.call('DEL', generation)
return 1
