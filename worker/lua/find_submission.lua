-- FIND_SUBMISSION  what an idempotency key made before.
--   ARGV  tenant, hash of the idempotency key, sha256 of the body
--   ->    {'found' | 'mismatch', job id} | {'new', ''}
local known = redis.call('HMGET', submission_key(ARGV[1], ARGV[2]), 'job', 'body')
if not known[1] or not get(known[1], 'status') then return is_complete() and {'new', ''} or INCOMPLETE end
return {known[2] == ARGV[3] and 'found' or 'mismatch', known[1]}
