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
redis.call('DEL', job_key(id), job_key(id, 'events'), job_key(id, 'transitions'), job_key(id, 'snapshots'), job_key(id, 'metrics'))
return 'ok'
