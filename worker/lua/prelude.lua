-- Stands before every script: the names of the keys, the clock, and the steps that transitions share.
--   KEYS  prefix of all keys. Scripts derive the others from it, so they need one server, as Celery's broker does.
-- Redis' own clock is the only one; all moments are milliseconds since 1970.

local MAX_EVENTS, MAX_EVENTS_AT_END, MAX_TRANSITIONS = 2000, 500, 100

local prefix = KEYS[1]
local pending, leases = prefix .. 'pending', prefix .. 'leases'  -- all queued jobs by arrival, all running ones by the end of the lease
local PRIORITIES = {'high', 'normal', 'low'}  -- a job of a lower one is taken when there is none of a higher one
local waiting = prefix .. 'waiting'  -- queued jobs that no worker may take before WAKE
local runs = prefix .. 'runs'  -- training runs of studies that have not ended
-- generation: there, as long as the database has all jobs. A database that was emptied hasn't it until the jobs were read back from
-- the artifact store; in the meantime, "there is no such job" and "no job uses this" would be wrong answers.
local generation, rebuild = prefix .. 'generation', prefix .. 'rebuild'
local INCOMPLETE = redis.error_reply('INCOMPLETE the jobs are being read back from the artifact store: repeat the request soon')

local function is_complete() return redis.call('EXISTS', generation) == 1 end

local function job_key(id, part) return prefix .. 'job:' .. id .. (part and ':' .. part or '') end
local function dataset_key(id, part) return prefix .. 'dataset:' .. id .. ':' .. part end
local function index_key(tenant, kind, status) return prefix .. 'jobs:' .. tenant .. ':' .. kind .. ':' .. status end
local function submission_key(tenant, hash) return prefix .. 'idempotency:' .. tenant .. ':' .. hash end
local function queue_key(priority, tenant) return prefix .. 'queue:' .. priority .. ':' .. tenant end  -- one tenant's queued jobs by arrival
local function ring_key(priority) return prefix .. 'ring:' .. priority end  -- tenants with queued jobs, in the order of their turns
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function count(name) redis.call('HINCRBY', prefix .. 'counters', name, 1) end
local function set(id, ...) return redis.call('HSET', job_key(id), ...) end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function tenant_of(id) return get(id, 'tenant') or 'default' end
local function priority_of(id) return get(id, 'priority') or 'normal' end

-- Every combination of tenant, kind and status, '*' being any, has its index of ids; equal scores sort by id, so by time of creation.
local function index(command, id, kind, status)
  for _, tenant in ipairs({tenant_of(id), '*'}) do
    for _, k in ipairs({kind, '*'}) do
      local key = index_key(tenant, k, status)
      if command == 'ZADD' then redis.call('ZADD', key, 0, id) else redis.call('ZREM', key, id) end
    end
  end
end

-- A tenant's turn comes after those of all others that wait with it.
local function take_turn(priority, tenant)
  local last = redis.call('ZREVRANGE', ring_key(priority), 0, 0, 'WITHSCORES')[2] or '0'
  redis.call('ZADD', ring_key(priority), last + 1, tenant)
end

local function join_queue(id, arrival)
  local priority, tenant = priority_of(id), tenant_of(id)
  redis.call('ZADD', pending, arrival, id)
  redis.call('ZADD', queue_key(priority, tenant), arrival, id)
  if not redis.call('ZSCORE', ring_key(priority), tenant) then take_turn(priority, tenant) end
end

local function leave_queue(id)
  if redis.call('ZREM', pending, id) == 0 then return end
  local priority, tenant = priority_of(id), tenant_of(id)
  redis.call('ZREM', queue_key(priority, tenant), id)
  if redis.call('EXISTS', queue_key(priority, tenant)) == 0 then redis.call('ZREM', ring_key(priority), tenant) end
end

-- The tenants that wait at each priority, in the order of their turns, with the numbers of their jobs; read once in a script.
local rings = {}
local function ring(priority)
  if not rings[priority] then
    local found = {total = 0}
    for i, tenant in ipairs(redis.call('ZRANGE', ring_key(priority), 0, -1)) do
      found[i] = {tenant = tenant, jobs = redis.call('ZCARD', queue_key(priority, tenant))}
      found.total = found.total + found[i].jobs
    end
    rings[priority] = found
  end
  return rings[priority]
end

-- How many jobs are taken before a queued one, if no other comes; nil where it isn't queued. Of the other tenants each has as many turns
-- before the job as its own tenant has jobs before it, and one more if its turn comes first.
local function jobs_before(id)
  local priority, tenant = priority_of(id), tenant_of(id)
  local rank = redis.call('ZRANK', queue_key(priority, tenant), id)
  if not rank then return nil end
  local before, turns = rank, rank + 1
  for _, higher in ipairs(PRIORITIES) do
    if higher == priority then break end
    before = before + ring(higher).total
  end
  for _, other in ipairs(ring(priority)) do
    if other.tenant == tenant then turns = rank
    else before = before + math.min(other.jobs, turns) end
  end
  return before
end

-- Appends an event; numbers have no gaps, whoever writes.
local function emit(id, type, data)
  local seq = redis.call('HINCRBY', job_key(id), 'seq', 1)
  redis.call('XADD', job_key(id, 'events'), 'MAXLEN', '~', MAX_EVENTS, seq .. '-0', 'type', type, 'at', now, 'data', data)
end

local function emit_state(id, status, phase, reason)
  emit(id, 'state', cjson.encode({status = status, phase = phase or cjson.null, reason = reason}))
end

-- Changes the status, and says so in the index, the list of transitions and the events. The phase is nil for terminal states.
local function transition(id, to, phase, reason, actor)
  local kind, from = get(id, 'kind'), get(id, 'status')
  if from then index('ZREM', id, kind, from) end
  if from == 'running' then redis.call('HINCRBY', job_key(id), 'ran_ms', math.max(0, now - tonumber(get(id, 'running_since') or now))) end
  if to == 'running' then set(id, 'running_since', now) end
  index('ZADD', id, kind, to)
  set(id, 'status', to, 'phase', phase or '')
  redis.call('RPUSH', job_key(id, 'transitions'), cjson.encode({to = to, at = now, reason = reason, actor = actor}))
  redis.call('LTRIM', job_key(id, 'transitions'), -MAX_TRANSITIONS, -1)
  emit_state(id, to, phase, reason)
end

-- Puts a new job among the others of its kind and dataset. Its fields and values are those of ARGV from first to last.
local function add(id, kind, dataset, first, last)
  set(id, 'kind', kind, 'dataset_id', dataset, unpack(ARGV, first, last))
  index('ZADD', id, kind, '*')
  redis.call('SADD', dataset_key(dataset, 'jobs'), id)
  if kind == 'train' and get(id, 'parent_id') then redis.call('SADD', runs, id) end
end

-- Arrival is in microseconds since 1970; no two scripts run in one, so they keep the order. A job that comes back keeps its own.
local function enqueue(id, reason, actor, arrival)
  arrival = arrival or get(id, 'arrival') or string.format('%d%06d', time[1], time[2])
  set(id, 'arrival', arrival)
  redis.call('ZREM', leases, id)
  join_queue(id, arrival)
  transition(id, 'queued', 'waiting_for_worker', reason, actor)
end

-- Has a job queued where no worker takes it: its own runs come first.
local function let_wait(id, reason, actor)
  redis.call('SADD', waiting, id)
  transition(id, 'queued', 'waiting_for_runs', reason, actor)
end

-- Writes down that a job was paused, resumed or extended; the artifact store is to have it too, and the reconciler sees to that.
local function amend(id, amendment)
  amendment.n = redis.call('LLEN', job_key(id, 'amendments')) + 1
  amendment.at = now
  redis.call('RPUSH', job_key(id, 'amendments'), cjson.encode(amendment))
  redis.call('SADD', prefix .. 'unamended', id)
end

-- Has a job rest until RESUME; it will be the last of its tenant's then. A study remembers that its runs come first.
local function park(id, actor)
  leave_queue(id)
  redis.call('ZREM', leases, id)
  redis.call('HDEL', job_key(id), 'requested', 'arrival', 'resumed')
  if redis.call('SREM', waiting, id) == 1 then set(id, 'waited', 1) end
  transition(id, 'paused', 'paused', 'pause', actor)
end

local function pause(id, actor)
  park(id, actor)
  amend(id, {kind = 'paused'})
end

-- Takes a paused job up again.
local function unpark(id, reason)
  set(id, 'resumed', 1)
  amend(id, {kind = 'resumed'})
  if redis.call('HDEL', job_key(id), 'waited') == 1 then let_wait(id, reason, 'client') else enqueue(id, reason, 'client') end
end

-- Asks the worker of a running job for something.
local function ask(id, action)
  local phase = action == 'stop_cycle_end' and get(id, 'phase') or 'stopping'
  set(id, 'requested', action, 'phase', phase)
  emit_state(id, 'running', phase, action)
end

-- The runs of a study that have not ended.
local function runs_of(study)
  local found = {}
  for _, id in ipairs(redis.call('SMEMBERS', runs)) do
    if get(id, 'parent_id') == study then found[#found + 1] = id end
  end
  return found
end

local function finish(id, status, reason, actor)
  redis.call('SREM', waiting, id)
  redis.call('SREM', runs, id)
  redis.call('ZREM', leases, id)
  leave_queue(id)
  redis.call('HDEL', job_key(id), 'requested')
  set(id, 'finished_at', now)
  transition(id, status, nil, reason, actor)
  redis.call('SADD', prefix .. 'unfiled', id)  -- until the reconciler has seen its result in the artifact store
  emit(id, 'end', cjson.encode({status = status}))
  redis.call('XTRIM', job_key(id, 'events'), 'MAXLEN', MAX_EVENTS_AT_END)
end

local function is_terminal(status) return status == 'succeeded' or status == 'failed' or status == 'cancelled' end
local function is_ours(id, epoch) return get(id, 'epoch') == epoch and get(id, 'status') == 'running' end
local function has_live_lease(id) return tonumber(redis.call('ZSCORE', leases, id) or '0') > now end

-- Counts how long a lost job was without a worker: from the end of its lease, or of its trainer, to this claim.
local RECOVERY_SECONDS = {1, 2, 5, 10, 20, 30, 60, 120, 300, 600}
local function count_recovery(id)
  local lost_at = tonumber(get(id, 'lost_at'))
  if not lost_at then return end
  redis.call('HDEL', job_key(id), 'lost_at')
  local ms = math.max(0, now - lost_at)
  redis.call('HINCRBY', prefix .. 'counters', 'recovery_ms', ms)
  for _, bound in ipairs(RECOVERY_SECONDS) do
    if ms <= 1000 * bound then return count('recovery_le_' .. bound) end
  end
  count('recovery_le_inf')
end

-- Counts a lost attempt of a running job -> 'requeued' | 'failed' (the budget is spent) | 'cancelled' | 'paused' (someone had asked for it)
local function lose_attempt(id, max_crashes, reason, actor)
  local crashes = redis.call('HINCRBY', job_key(id), 'crashes', 1)
  if get(id, 'requested') == 'cancel' then
    finish(id, 'cancelled', 'cancel', actor)
    return 'cancelled'
  end
  if crashes < tonumber(max_crashes) then
    if get(id, 'requested') == 'pause' then
      pause(id, actor)
      return 'paused'
    end
    set(id, 'lost_at', math.min(now, tonumber(redis.call('ZSCORE', leases, id) or now)))
    enqueue(id, reason, actor)
    return 'requeued'
  end
  set(id, 'error', cjson.encode({
    category = 'worker_lost',
    message = 'The worker or its trainer died ' .. crashes .. ' times without progress; the last time: ' .. reason .. '.',
    suggestion = 'Look into the worker\'s log; if memory ran out, use a smaller batch_size or model.',
  }))
  finish(id, 'failed', 'worker_lost', actor)
  return 'failed'
end

-- A job as {fields and values, transitions, jobs before it in the queue or false}; nil where there is none.
local function record(id)
  local fields = redis.call('HGETALL', job_key(id))
  if #fields == 0 then return nil end
  return {fields, redis.call('LRANGE', job_key(id, 'transitions'), 0, -1), jobs_before(id) or false}
end

