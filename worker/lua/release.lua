-- RELEASE  gives a running job back after a clean checkpoint, to the queue or as what was asked of it; no crash is counted.
--   ARGV  id, epoch, reason
--   ->    1 | 0 fenced
local id, epoch, reason = unpack(ARGV)
if not is_ours(id, epoch) then
  local is_back = get(id, 'status') == 'queued' or get(id, 'status') == 'paused'
  return get(id, 'epoch') == epoch and is_back and 1 or 0  -- 1: once more, after its answer was lost
end
local requested = get(id, 'requested')
if requested == 'cancel' then finish(id, 'cancelled', 'cancel', get(id, 'owner'))
elseif requested == 'pause' then pause(id, get(id, 'owner'))
else enqueue(id, reason, get(id, 'owner')) end
return 1
