-- REQUEST  asks a job to end or to pause; what has not begun does so at once. A study's runs pause with it.
--   ARGV  id, 'pause' | 'stop_cycle_end' | 'stop_now' | 'cancel'
--   ->    'ok' (also where it has already taken effect) | 'missing' | 'invalid'
local STRENGTH = {pause = 0, stop_cycle_end = 1, stop_now = 2, cancel = 3}
local id, action = unpack(ARGV)
local status, requested = get(id, 'status'), get(id, 'requested')
if not status then return is_complete() and 'missing' or INCOMPLETE end
if is_terminal(status) then
  local took_effect = status == 'cancelled' and action == 'cancel'
  if action == 'stop_now' or action == 'stop_cycle_end' then took_effect = status ~= 'failed' and get(id, 'stop_reason') end
  return took_effect and 'ok' or 'invalid'
end
if requested and STRENGTH[requested] >= STRENGTH[action] then return 'ok' end
if action == 'cancel' and status ~= 'running' then
  finish(id, 'cancelled', 'cancel', 'client')
  return 'ok'
end
if action == 'pause' then
  if status == 'paused' then return 'ok' end
  if status == 'queued' then pause(id, 'client') else ask(id, action) end
  for _, run in ipairs(get(id, 'kind') == 'study' and runs_of(id) or {}) do
    local stands = get(run, 'status')
    if stands == 'queued' then pause(run, 'client')
    elseif stands == 'running' and not get(run, 'requested') then ask(run, action) end
  end
  return 'ok'
end
if status == 'running' then
  ask(id, action)
  return 'ok'
end
if status == 'queued' or get(id, 'kind') == 'study' then return 'invalid' end  -- there is nothing to keep
set(id, 'requested', action)  -- its next worker takes it up to carry this out
unpark(id, action)
return 'ok'
