-- WAKE  queues a job whose own runs have ended, so that a worker can take it.
--   ARGV  id, reason
--   ->    1 | 0 it doesn't wait: it was woken before, or has ended
local id, reason = unpack(ARGV)
if redis.call('SREM', waiting, id) == 0 then return 0 end
enqueue(id, reason, 'reconciler')
return 1
