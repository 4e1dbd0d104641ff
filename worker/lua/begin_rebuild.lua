-- BEGIN_REBUILD  lets the caller restore jobs, and nobody else any more, if the database has lost them.
--   ARGV  the caller's token
--   ->    1 | 0 the database is complete
if is_complete() then return 0 end
redis.call('SET', rebuild, ARGV[1])
return 1
