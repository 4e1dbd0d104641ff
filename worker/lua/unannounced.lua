-- UNANNOUNCED  as many queued jobs as messages are missing in Celery's queue. Any message makes a worker take the next job, so their number counts.
--   ARGV  Celery's queue, age in ms at which a message must have been sent
--   ->    ids, by arrival
local queue, age_ms = unpack(ARGV)
local latest = string.format('%.0f', (now - age_ms) * 1000 + 999)
local missing = redis.call('ZCOUNT', pending, '-inf', latest) - redis.call('LLEN', queue)
if missing <= 0 then return {} end
return redis.call('ZRANGEBYSCORE', pending, '-inf', latest, 'LIMIT', 0, missing)
