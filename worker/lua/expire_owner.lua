-- EXPIRE_OWNER  ends the leases of a process that is known to be dead: those of its jobs, and that of the leader.
--   ARGV  owner; a leader's name begins with it and a colon: host name and process id
--   ->    ids of its jobs
local lost = {}
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if get(id, 'owner') == ARGV[1] then
    redis.call('ZADD', leases, now, id)
    table.insert(lost, id)
  end
end
local leader = redis.call('GET', prefix .. 'leader')
if leader and string.sub(leader, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then redis.call('DEL', prefix .. 'leader') end
return lost
