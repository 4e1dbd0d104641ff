-- REQUEUE_EXPIRED  takes a running job from a worker whose lease has ended: counts a crash.
--   ARGV  id, max crashes
--   ->    'requeued' | 'failed' | 'cancelled' | 'paused' | 'held' (its lease lives, or it doesn't run)
local id, max_crashes = unpack(ARGV)
if get(id, 'status') ~= 'running' or has_live_lease(id) then return 'held' end
count('lease_expiries')
return lose_attempt(id, max_crashes, 'the worker was lost', 'reconciler')
