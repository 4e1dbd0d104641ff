-- MARK_AMENDED  notes that the artifact store has a job's first amendments.
--   ARGV  id, how many
if redis.call('LLEN', job_key(ARGV[1], 'amendments')) == tonumber(ARGV[2]) then redis.call('SREM', prefix .. 'unamended', ARGV[1]) end
