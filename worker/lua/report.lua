-- REPORT  whatever has become of a running job.
--   ARGV  id, epoch, phase or '', event type or '', event data, '1' if the first optimizer step is done,
--         step of a new checkpoint or '', number of metric rows, the rows, then fields and values
--   ->    1 | 0 fenced
local id, epoch, phase, event, data, training_started, checkpoint_step, num_rows = unpack(ARGV, 1, 8)
if not is_ours(id, epoch) then return 0 end
local job, metrics = job_key(id), job_key(id, 'metrics')

if phase ~= '' and phase ~= get(id, 'phase') then
  set(id, 'phase', phase)
  emit_state(id, 'running', phase, phase)
end
if training_started == '1' then redis.call('HSETNX', job, 'training_started_at', now) end
if checkpoint_step ~= '' and tonumber(checkpoint_step) > tonumber(get(id, 'checkpoint_step') or '-1') then
  set(id, 'checkpoint_step', checkpoint_step, 'crashes', 0)  -- progress: the crash budget starts again
end

-- Rows begin with their step and ascend; those already there come from a call whose answer was lost.
local first_field = 9 + num_rows
local last = redis.call('LINDEX', metrics, -1)
local last_step = last and tonumber(string.match(last, '%d+')) or -1
for i = 9, first_field - 1 do
  if tonumber(string.match(ARGV[i], '%d+')) > last_step then redis.call('RPUSH', metrics, ARGV[i]) end
end
if ARGV[first_field] then set(id, unpack(ARGV, first_field)) end
local said = redis.sha1hex(table.concat({epoch, event, data}, ' '))
if event ~= '' and said ~= get(id, 'said') then  -- the same event again comes from a call whose answer was lost
  emit(id, event, data)
  set(id, 'said', said)
end
return 1
