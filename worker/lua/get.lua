-- GET  one job.
--   ARGV  id
--   ->    {fields and values, transitions, rank in the queue or nil} | nil
return record(ARGV[1]) or not is_complete() and INCOMPLETE or nil
