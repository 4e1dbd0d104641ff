-- BEGIN_DELETE  marks a job that has ended: whoever dies on the way, its deletion will be carried to its end.
--   ARGV  id
--   ->    'ok' | 'missing' | 'invalid'
local id = ARGV[1]
local status = get(id, 'status')
if not is_complete() then return INCOMPLETE end  -- a rebuild could bring it back
if not status then return 'missing' end
if not is_terminal(status) then return 'invalid' end
redis.call('SADD', prefix .. 'deleting', id)
redis.call('SREM', prefix .. 'unfiled', id)
return 'ok'
