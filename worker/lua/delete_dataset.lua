-- DELETE_DATASET  forbids new jobs on a dataset that no job uses.
--   ARGV  dataset id, life of the ban in seconds (longer than any submission takes)
--   ->    ids of the jobs that use it; empty: it is banned
local dataset, life = unpack(ARGV)
if not is_complete() then return INCOMPLETE end
local users = redis.call('SMEMBERS', dataset_key(dataset, 'jobs'))
if #users == 0 then redis.call('SET', dataset_key(dataset, 'deleted'), 1, 'EX', life) end
return users
