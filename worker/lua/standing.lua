-- STANDING  where jobs stand.
--   ARGV  ids
--   ->    for each its status, or '' where there is none, and its progress as JSON
local found = {}
for i, id in ipairs(ARGV) do
  local fields = redis.call('HMGET', job_key(id), 'status', 'progress')
  if not fields[1] and not is_complete() then return INCOMPLETE end
  found[2 * i - 1], found[2 * i] = fields[1] or '', fields[2] or ''
end
return found
