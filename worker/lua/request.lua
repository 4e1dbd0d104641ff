-- REQUEST  asks a job to end; what has not begun ends at once.
--   ARGV  id, 'cancel' | 'stop_now' | 'stop_cycle_end'
--   ->    'ok' (also where it has already taken effect) | 'missing' | 'invalid'
local STRENGTH = {stop_cycle_end = 1, stop_now = 2, cancel = 3}
local id, action = unpack(ARGV)
local status, requested = get(id, 'status'), get(id, 'requested')
if not status then return is_complete() and 'missing' or INCOMPLETE end
if is_terminal(status) then
  local took_effect = status == 'cancelled'
  if action ~= 'cancel' then took_effect = status ~= 'failed' and get(id, 'stop_reason') end
  return took_effect and 'ok' or 'invalid'
end
if requested and STRENGTH[requested] >= STRENGTH[action] then return 'ok' end
if status == 'running' then
  local phase = action == 'stop_cycle_end' and get(id, 'phase') or 'stopping'
  set(id, 'requested', action, 'phase', phase)
  emit_state(id, status, phase, action)
  return 'ok'
end
if action ~= 'cancel' then return 'invalid' end
finish(id, 'cancelled', 'cancel', 'client')
return 'ok'
