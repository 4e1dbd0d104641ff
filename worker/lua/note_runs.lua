-- NOTE_RUNS  how far the runs of a waiting job are; an event tells it where that is news.
--   ARGV  id, progress as JSON, event data as JSON
--   ->    1 | 0 it doesn't wait
local id, progress, data = unpack(ARGV)
if redis.call('SISMEMBER', waiting, id) == 0 then return 0 end
local noted = get(id, 'noted')
set(id, 'noted', data)
if progress ~= get(id, 'progress') or noted and noted ~= data then  -- a run may be whole for a moment before it has ended
  set(id, 'progress', progress)
  emit(id, 'progress', data)
end
return 1
