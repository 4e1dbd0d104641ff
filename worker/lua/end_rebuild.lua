-- END_REBUILD  declares the database complete.
--   ARGV  the caller's token
--   ->    1 | 0 the database was emptied again meanwhile, or someone else began
if redis.call('GET', rebuild) ~= ARGV[1] then return 0 end
redis.call('SET', generation, ARGV[1])
redis.call('DEL', rebuild)
return 1
