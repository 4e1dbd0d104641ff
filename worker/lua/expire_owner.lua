-- EXPIRE_OWNER  ends the leases of a worker that is known to be dead.
--   ARGV  owner
--   ->    ids of its jobs
local lost = {}
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if get(id, 'owner') == ARGV[1] then
    redis.call('ZADD', leases, now, id)
    table.insert(lost, id)
  end
end
return lost
