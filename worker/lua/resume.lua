-- RESUME  takes a paused job up again; a study's paused runs go on with it.
--   ARGV  id
--   ->    'ok' (also where it goes on already) | 'missing' | 'invalid'
local id = ARGV[1]
local status = get(id, 'status')
if not status then return is_complete() and 'missing' or INCOMPLETE end
if status ~= 'paused' then return not is_terminal(status) and get(id, 'resumed') and 'ok' or 'invalid' end
unpark(id, 'resume')
for _, run in ipairs(get(id, 'kind') == 'study' and runs_of(id) or {}) do
  if get(run, 'status') == 'paused' then unpark(run, 'resume')
  elseif get(run, 'requested') == 'pause' then
    redis.call('HDEL', job_key(run), 'requested')  -- a trainer that was told already comes back to the queue
    set(run, 'phase', 'training')
    emit_state(run, 'running', 'training', 'resume')
  end
end
return 'ok'
