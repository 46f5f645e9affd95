"""The Lua that must be one step with what it checks. Every key of one script is in one shard.

``redis-cli monitor`` shows what a script does as ordinary commands marked ``lua``.
"""

APPEND_GUARDED = """
-- KEYS: stream, fences of the stage, watermark     ARGV: turn, fence, then the entry's fields
if tonumber(ARGV[2]) < tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0') then return 'FENCED' end
local turn = tonumber(ARGV[1])
if turn > 0 and turn <= tonumber(redis.call('GET', KEYS[3]) or '0') then return 'CANCELLED' end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
"""
"""Write for a lease: refused when a higher fence was given since, or when the turn (> 0) is cancelled."""

RAISE = """
-- KEYS: watermark, perhaps fences of the gateway     ARGV: turn, channel, announcement, fence
if KEYS[2] and tonumber(ARGV[4]) < tonumber(redis.call('HGET', KEYS[2], '0') or '0') then return -1 end
local mark = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) > mark then mark = tonumber(ARGV[1]) redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return mark
"""
"""Atomic maximum, and its announcement; -1 for a gateway whose session has another since."""

TAKE = """
-- KEYS: work stream, fences of the stage, watermark     ARGV: group, consumer, entry id, turn
local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #p == 0 or p[1][2] ~= ARGV[2] then return {} end
local fence = redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
if redis.call('PTTL', KEYS[2]) < 0 then redis.call('PEXPIRE', KEYS[2], 3600000) end
return {fence, tonumber(redis.call('GET', KEYS[3]) or '0'), p[1][4]}
"""
"""Raise the fence if the pending entry is still the consumer's own: fence, watermark, times delivered; or nothing.

The fences live for an hour unless the gateway, which renews that, says otherwise: the session may be over already."""

RENEW = """
-- KEYS: work stream, fences of the stage, watermark     ARGV: group, consumer, entry id, turn, fence, deliveries
if redis.call('HGET', KEYS[2], ARGV[4]) ~= ARGV[5] then return -1 end
local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3]}
if ARGV[6] ~= '0' then claim[7] = 'RETRYCOUNT' claim[8] = ARGV[6] end
claim[#claim + 1] = 'JUSTID'
if #redis.call(unpack(claim)) == 0 then return -1 end
return tonumber(redis.call('GET', KEYS[3]) or '0')
"""
"""Start the idle clock anew while the fence is ours: the watermark, or -1 when the lease is lost.

``deliveries`` above 0 sets how often the offer counts as handed out: work that goes well does not kill workers.

A plain XCLAIM would steal the lease back from whoever took it over."""

COMPLETE = """
-- KEYS: work stream, fences of the stage     ARGV: group, entry id, turn, fence
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[4] then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
"""
"""The work is done: the offer leaves the stream. 0 when the fence is no longer ours."""

HAND_BACK = """
-- KEYS: work stream, fences of the stage     ARGV: group, entry id, turn, fence, then the offer's fields
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[4] then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))
return 1
"""
"""The work is left to others: its offer stands anew, as never handed out. 0 when the fence is no longer ours."""

TAKE_PLACE = """
-- KEYS: everybody's places, a caller's     ARGV: milliseconds, call, most of everybody, most of the caller (0: any)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(KEYS) do redis.call('ZREMRANGEBYSCORE', key, '-inf', now) end
if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  if tonumber(ARGV[4]) > 0 and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return -1 end
  if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[2])
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1
"""
"""A call's place: 1, also for one that has it; 0 when all are taken, -1 when the caller has too many."""

RENEW_PLACES = """
-- KEYS: places     ARGV: milliseconds, calls
local time = redis.call('TIME')
for n = 2, #ARGV do redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1], ARGV[n]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
"""Keep places for so long from now; one that has expired is taken again, since its call goes on."""

COUNT_PLACES = """
-- KEYS: places
local time = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000), '+inf')
"""
"""How many places are taken."""

WITHDRAW = """
-- KEYS: work stream     ARGV: group, entry id
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) > 0 then return 0 end
return redis.call('XDEL', KEYS[1], ARGV[2])
"""
"""Take back an offer that nobody has claimed: 1 if so, 0 when it was claimed or is gone."""

HOLD_LEASE = """
-- KEYS: lease, live sessions, perhaps fences of the gateway     ARGV: owner, milliseconds, session, fence
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if KEYS[3] and redis.call('HGET', KEYS[3], '0') ~= ARGV[4] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
"""
"""Take or renew a session's lease, held by name: 1, or 0 while somebody else holds it. The session counts as live.

With a fence: 0 also when a higher one was given since."""

SEIZE_LEASE = """
-- KEYS: lease, live sessions, fences of the gateway     ARGV: owner, milliseconds, session, who ends sessions
if ARGV[4] ~= '' then
  if redis.call('SISMEMBER', KEYS[2], ARGV[3]) == 0 or redis.call('GET', KEYS[1]) == ARGV[4] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return redis.call('HINCRBY', KEYS[3], '0', 1)
"""
"""Take a session's lease whoever holds it, with a new fence: what the one before writes is refused from now on.

With ``who ends sessions`` only one that is live and not being ended can be taken: 0 for any other."""

RELEASE_LEASE = """
-- KEYS: lease, live sessions     ARGV: owner, session, ended
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[3] == '1' then redis.call('SREM', KEYS[2], ARGV[2]) end
return 1
"""
"""Let go of a session's lease, unless somebody else has it by now: 0 then. ``ended``: it is not live any more."""
