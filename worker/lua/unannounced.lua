-- UNANNOUNCED  queued jobs whose message was lost, by the number of messages that are missing in Celery's queue.
--   ARGV  Celery's queue, age in ms at which a message must have been sent
--   ->    ids, oldest first. Messages and jobs have the same order, so a job without message becomes the oldest.
local queue, age_ms = unpack(ARGV)
local missing = redis.call('ZCARD', pending) - redis.call('LLEN', queue)
if missing <= 0 then return {} end
return redis.call('ZRANGEBYSCORE', pending, '-inf', string.format('%.0f', (now - age_ms) * 1000 + 999), 'LIMIT', 0, missing)
