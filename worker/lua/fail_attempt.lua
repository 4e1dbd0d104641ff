-- FAIL_ATTEMPT  the trainer died under a worker that lives: counts a crash.
--   ARGV  id, epoch, max crashes, reason
--   ->    'requeued' | 'failed' | 'cancelled' | 'paused' | 'fenced'
local id, epoch, max_crashes, reason = unpack(ARGV)
if not is_ours(id, epoch) then
  local outcome = ({queued = 'requeued', failed = 'failed', cancelled = 'cancelled', paused = 'paused'})[get(id, 'status') or '']
  return get(id, 'epoch') == epoch and outcome or 'fenced'  -- once more, after its answer was lost
end
return lose_attempt(id, max_crashes, reason, get(id, 'owner'))
