-- RESET_METRICS  replaces the metric rows by those of the checkpoint that a job resumes from.
--   ARGV  id, epoch, rows...
--   ->    1 | 0 fenced
local id, epoch = ARGV[1], ARGV[2]
if not is_ours(id, epoch) then return 0 end
redis.call('DEL', job_key(id, 'metrics'))
for i = 3, #ARGV do redis.call('RPUSH', job_key(id, 'metrics'), ARGV[i]) end
return 1
