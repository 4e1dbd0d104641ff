-- Stands before every script: the names of the keys, the clock, and the steps that transitions share.
--   KEYS  prefix of all keys. Scripts derive the others from it, so they need one server, as Celery's broker does.
-- Redis' own clock is the only one; all moments are milliseconds since 1970.

local MAX_EVENTS, MAX_EVENTS_AT_END, MAX_TRANSITIONS = 2000, 500, 100

local prefix = KEYS[1]
local pending, leases = prefix .. 'pending', prefix .. 'leases'
local waiting = prefix .. 'waiting'  -- queued jobs that no worker may take before WAKE
local runs = prefix .. 'runs'  -- training runs of studies that have not ended
-- generation: there, as long as the database has all jobs. A database that was emptied hasn't it until the jobs were read back from
-- the artifact store; in the meantime, "there is no such job" and "no job uses this" would be wrong answers.
local generation, rebuild = prefix .. 'generation', prefix .. 'rebuild'
local INCOMPLETE = redis.error_reply('INCOMPLETE the jobs are being read back from the artifact store: repeat the request soon')

local function is_complete() return redis.call('EXISTS', generation) == 1 end

local function job_key(id, part) return prefix .. 'job:' .. id .. (part and ':' .. part or '') end
local function dataset_key(id, part) return prefix .. 'dataset:' .. id .. ':' .. part end
local function index_key(kind, status) return prefix .. 'jobs:' .. kind .. ':' .. status end
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function set(id, ...) return redis.call('HSET', job_key(id), ...) end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Every combination of kind and status, '*' being any, has its index of ids; equal scores sort by id, so by time of creation.
local function index(command, id, kind, status)
  for _, k in ipairs({kind, '*'}) do
    if command == 'ZADD' then redis.call('ZADD', index_key(k, status), 0, id) else redis.call('ZREM', index_key(k, status), id) end
  end
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

-- Arrival is in microseconds since 1970, now by default; no two scripts run in one, so they keep the order.
local function enqueue(id, reason, actor, arrival)
  redis.call('ZREM', leases, id)
  redis.call('ZADD', pending, arrival or string.format('%d%06d', time[1], time[2]), id)
  transition(id, 'queued', 'waiting_for_worker', reason, actor)
end

-- Has a job queued where no worker takes it: its own runs come first.
local function let_wait(id, reason, actor)
  redis.call('SADD', waiting, id)
  transition(id, 'queued', 'waiting_for_runs', reason, actor)
end

local function finish(id, status, reason, actor)
  redis.call('SREM', waiting, id)
  redis.call('SREM', runs, id)
  redis.call('ZREM', leases, id)
  redis.call('ZREM', pending, id)
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

-- Counts a lost attempt of a running job -> 'requeued' | 'failed' (the budget is spent) | 'cancelled' (someone had asked for it)
local function lose_attempt(id, max_crashes, reason, actor)
  local crashes = redis.call('HINCRBY', job_key(id), 'crashes', 1)
  if get(id, 'requested') == 'cancel' then
    finish(id, 'cancelled', 'cancel', actor)
    return 'cancelled'
  end
  if crashes < tonumber(max_crashes) then
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

-- A job as {fields and values, transitions, rank in the queue or false}; nil where there is none.
local function record(id)
  local fields = redis.call('HGETALL', job_key(id))
  if #fields == 0 then return nil end
  return {fields, redis.call('LRANGE', job_key(id, 'transitions'), 0, -1), redis.call('ZRANK', pending, id)}
end

