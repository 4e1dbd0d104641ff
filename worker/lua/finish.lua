-- FINISH  ends a running job; only EXTEND takes it up again.
--   ARGV  id, epoch, status, reason, error as JSON or '', stop reason or '', extensions that its result counts, or ''
--   ->    1 | 0 fenced | 2 it was extended meanwhile
local id, epoch, status, reason, err, stop_reason, extensions = unpack(ARGV)
if not is_ours(id, epoch) then
  return get(id, 'epoch') == epoch and get(id, 'status') == status and 1 or 0  -- 1: once more, after its answer was lost
end
if extensions ~= '' and extensions ~= (get(id, 'extensions') or '0') then return 2 end
if err ~= '' then set(id, 'error', err) end
if stop_reason ~= '' then set(id, 'stop_reason', stop_reason) end
finish(id, status, reason, get(id, 'owner'))
return 1
