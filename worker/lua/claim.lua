-- CLAIM  a queued job, or a running one whose lease has ended.
--   ARGV  id, owner, lease in ms, max crashes, a word that is new in every call
--   ->    {epoch, 'ok'} | {0, 'held' | 'waiting' | 'paused' | 'cancelled' | 'done' | 'poison' | 'missing'}
local id, owner, lease_ms, max_crashes, call = unpack(ARGV)
local status = get(id, 'status')
if not status then return {0, 'missing'} end
if status == 'paused' or status == 'cancelled' then return {0, status} end
if is_terminal(status) then return {0, 'done'} end
if redis.call('SISMEMBER', waiting, id) == 1 then return {0, 'waiting'} end
if status == 'running' then
  if get(id, 'claim') == call then return {tonumber(get(id, 'epoch')), 'ok'} end  -- once more, after its answer was lost
  if has_live_lease(id) then return {0, 'held'} end
  local outcome = lose_attempt(id, max_crashes, 'the lease ended', owner)
  if outcome ~= 'requeued' then return {0, outcome == 'failed' and 'poison' or outcome} end
end

-- The epoch follows the clock, so it also grows across a database that was lost or set back.
local epoch = math.max(tonumber(get(id, 'epoch') or '0') + 1, now)
set(id, 'epoch', epoch, 'owner', owner, 'claim', call)
redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HSETNX', job_key(id), 'started_at', now)
if redis.call('ZSCORE', pending, id) then
  leave_queue(id)
  local priority, tenant = priority_of(id), tenant_of(id)
  if redis.call('ZSCORE', ring_key(priority), tenant) then take_turn(priority, tenant) end
end
redis.call('ZADD', leases, now + lease_ms, id)
count_recovery(id)
transition(id, 'running', 'preparing_data', 'claimed', owner)
return {epoch, 'ok'}
