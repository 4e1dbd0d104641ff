-- FINISH  ends a running job for ever.
--   ARGV  id, epoch, status, reason, error as JSON or '', stop reason or ''
--   ->    1 | 0 fenced
local id, epoch, status, reason, err, stop_reason = unpack(ARGV)
if not is_ours(id, epoch) then
  return get(id, 'epoch') == epoch and get(id, 'status') == status and 1 or 0  -- 1: once more, after its answer was lost
end
if err ~= '' then set(id, 'error', err) end
if stop_reason ~= '' then set(id, 'stop_reason', stop_reason) end
finish(id, status, reason, get(id, 'owner'))
return 1
