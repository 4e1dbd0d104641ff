-- LIST  a page of jobs.
--   ARGV  tenant or '*', kind or '*', status or '*', lower and upper bound of the ids (as in ZRANGE BYLEX), '1' for descending ids, number of jobs
--   ->    a list of what GET answers
local tenant, kind, status, lower, upper, descending, limit = unpack(ARGV)
if not is_complete() then return INCOMPLETE end
local ids
if descending == '1' then ids = redis.call('ZREVRANGEBYLEX', index_key(tenant, kind, status), upper, lower, 'LIMIT', 0, limit)
else ids = redis.call('ZRANGEBYLEX', index_key(tenant, kind, status), lower, upper, 'LIMIT', 0, limit) end
for i, id in ipairs(ids) do ids[i] = record(id) end
return ids
