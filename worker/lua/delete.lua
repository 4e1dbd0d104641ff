-- DELETE  forgets a job that has ended, as the last step of its deletion.
--   ARGV  id
--   ->    'ok' | 'missing' | 'invalid'
local id = ARGV[1]
local status = get(id, 'status')
if not status then return is_complete() and 'missing' or INCOMPLETE end
if not is_terminal(status) then return 'invalid' end
index('ZREM', id, get(id, 'kind'), status)
index('ZREM', id, get(id, 'kind'), '*')
redis.call('SREM', dataset_key(get(id, 'dataset_id'), 'jobs'), id)
redis.call('SREM', prefix .. 'unfiled', id)
redis.call('SREM', prefix .. 'deleting', id)
redis.call('SREM', prefix .. 'unamended', id)
for _, part in ipairs({'events', 'transitions', 'snapshots', 'metrics', 'amendments'}) do redis.call('DEL', job_key(id, part)) end
redis.call('DEL', job_key(id))
return 'ok'
