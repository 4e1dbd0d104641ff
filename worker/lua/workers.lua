-- WORKERS  those with a recent sign of life.
--   ->    id, info as JSON, id, info...
if not is_complete() then return INCOMPLETE end  -- then nothing is ready
local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'workers', '(' .. now, '+inf')) do
  table.insert(answer, id)
  table.insert(answer, redis.call('HGET', prefix .. 'workers:info', id))
end
return answer
