-- STRAY_RUNS  runs that go on although their study has ended, or is gone.
--   ->    ids
if not is_complete() then return INCOMPLETE end
local stray = {}
for _, id in ipairs(redis.call('SMEMBERS', runs)) do
  local status = get(get(id, 'parent_id'), 'status')
  if not status or is_terminal(status) then stray[#stray + 1] = id end
end
return stray
