-- RELEASE  gives a running job back after a clean checkpoint; no crash is counted.
--   ARGV  id, epoch, reason
--   ->    1 | 0 fenced
local id, epoch, reason = unpack(ARGV)
if not is_ours(id, epoch) then
  return get(id, 'epoch') == epoch and get(id, 'status') == 'queued' and 1 or 0  -- 1: once more, after its answer was lost
end
if get(id, 'requested') == 'cancel' then finish(id, 'cancelled', 'cancel', get(id, 'owner'))
else enqueue(id, reason, get(id, 'owner')) end
return 1
