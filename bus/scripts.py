"""The Lua that must be one step with what it checks. Every key of one script is in one shard.

``redis-cli monitor`` shows what a script does as ordinary commands marked ``lua``.
"""

APPEND_GUARDED = """
-- KEYS: stream, fences of the stage, watermark     ARGV: turn, fence, owner, then the entry's fields
local fence = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if tonumber(ARGV[2]) < fence then return 'FENCED' end
if ARGV[3] ~= '' and tonumber(ARGV[2]) == fence then
  if (redis.call('HGET', KEYS[2], ARGV[1] .. ':owner') or ARGV[3]) ~= ARGV[3] then return 'FENCED' end
end
local turn = tonumber(ARGV[1])
if turn > 0 and turn <= tonumber(redis.call('GET', KEYS[3]) or '0') then return 'CANCELLED' end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
"""
"""Write for a lease: refused when a higher fence was given since, or when the turn (> 0) is cancelled.

A server that failed over may give a fence twice, so the owner counts as well.
"""

RESTORE = """
-- KEYS: stream     ARGV: id, then the entry's fields
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) > 0 then return 0 end
local added = redis.pcall('XADD', KEYS[1], ARGV[1], unpack(ARGV, 2))
if type(added) == 'table' and added.err then redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2)) end
return 1
"""
"""Write an entry again that a server may have lost, under the id it had; at the end where that id has passed.

Readers that had it know it by its id, or by its writer and sequence number.
"""

OFFER = """
-- KEYS: work stream, offers of the stage, fences of the gateway     ARGV: turn, token, fence, then the offer's fields
local fence = tonumber(ARGV[3])
if fence > 0 and fence < tonumber(redis.call('HGET', KEYS[3], '0') or '0') then return 'FENCED' end
local known = redis.call('HMGET', KEYS[2], ARGV[1], ARGV[1] .. ':token')
if known[1] and known[2] == ARGV[2] then return known[1] end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], ARGV[1], id, ARGV[1] .. ':token', ARGV[2])
return id
"""
"""Offer a turn (0: the session) once: the same token again, after an answer that was lost, offers nothing new.

Refused when the gateway's fence (above 0) is not the highest any more."""

HAND_BACK = """
-- KEYS: work stream, offers of the stage     ARGV: group, consumer, entry id, turn
local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
local found = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])
if #p == 0 or p[1][2] ~= ARGV[2] or #found == 0 then return false end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
local id = redis.call('XADD', KEYS[1], '*', unpack(found[1][2]))
redis.call('HSET', KEYS[2], ARGV[4], id)
return id
"""
"""Offer again what was claimed without room for it."""

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
-- KEYS: work stream, fences of the stage, watermark     ARGV: group, consumer, entry id, turn, 1 if it is new
local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #p == 0 or p[1][2] ~= ARGV[2] then return {} end
local held = redis.call('HMGET', KEYS[2], ARGV[4] .. ':entry', ARGV[4] .. ':owner')
if ARGV[5] == '1' and held[1] == ARGV[3] and held[2] then
  redis.call('XCLAIM', KEYS[1], ARGV[1], held[2], 0, ARGV[3], 'JUSTID')
  return {}
end
local fence = redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
redis.call('HSET', KEYS[2], ARGV[4] .. ':owner', ARGV[2], ARGV[4] .. ':entry', ARGV[3])
return {fence, tonumber(redis.call('GET', KEYS[3]) or '0'), p[1][4]}
"""
"""Raise the fence if the pending entry is still the consumer's own: fence, watermark, times delivered; or nothing.

An entry that comes as new though somebody holds it was handed out by a server that forgot: it stays whose it was,
until its time is up.
"""

HOLD = """
-- KEYS: work stream, fences of the stage, offers of the stage
-- ARGV: group, consumer, entry id, turn, fence, then the offer's fields
local turn, fence = ARGV[4], tonumber(redis.call('HGET', KEYS[2], ARGV[4]) or '0')
if fence > tonumber(ARGV[5]) then return false end
if fence == tonumber(ARGV[5]) and (redis.call('HGET', KEYS[2], turn .. ':owner') or ARGV[2]) ~= ARGV[2] then
  return false
end
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
local id = ARGV[3]
if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
  id = redis.call('HGET', KEYS[3], turn) or id
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then
    local added = redis.pcall('XADD', KEYS[1], id, unpack(ARGV, 6))
    if type(added) == 'table' and added.err then id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 6)) end
  end
  redis.call('HSET', KEYS[3], turn, id)
end
redis.call('HSET', KEYS[2], turn, ARGV[5], turn .. ':owner', ARGV[2], turn .. ':entry', id)
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'FORCE', 'JUSTID')
return id
"""
"""A lease's holder says again that it holds it, to a server that may have forgotten: the entry that it now holds, or
nothing when somebody else has the work by now."""

RENEW = """
-- KEYS: work stream, fences of the stage, watermark     ARGV: group, consumer, entry id, turn, fence, deliveries
local held = redis.call('HMGET', KEYS[2], ARGV[4], ARGV[4] .. ':owner')
if not held[1] then return -2 end
if held[1] ~= ARGV[5] or held[2] and held[2] ~= ARGV[2] then return -1 end
local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3]}
if ARGV[6] ~= '0' then claim[7] = 'RETRYCOUNT' claim[8] = ARGV[6] end
claim[#claim + 1] = 'JUSTID'
local claimed = redis.pcall(unpack(claim))
if claimed.err then return -2 end
if #claimed == 0 then return -1 end
return tonumber(redis.call('GET', KEYS[3]) or '0')
"""
"""Start the idle clock anew while the fence is ours: the watermark, -1 when the lease is lost, -2 when the server has
forgotten that there was one.

``deliveries`` above 0 sets how often the offer counts as handed out: work that goes well does not kill workers.

A plain XCLAIM would steal the lease back from whoever took it over."""

COMPLETE = """
-- KEYS: work stream, fences of the stage     ARGV: group, entry id, turn, fence, consumer
local held = redis.call('HMGET', KEYS[2], ARGV[3], ARGV[3] .. ':owner')
if held[1] ~= ARGV[4] or held[2] and held[2] ~= ARGV[5] then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
"""
"""The work is done: the offer leaves the stream. 0 when the fence is no longer ours."""

WITHDRAW = """
-- KEYS: work stream     ARGV: group, entry id
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) > 0 then return 0 end
return redis.call('XDEL', KEYS[1], ARGV[2])
"""
"""Take back an offer that nobody has claimed: 1 if so, 0 when it was claimed or is gone."""

HOLD_LEASE = """
-- KEYS: lease, live sessions, perhaps fences of the gateway     ARGV: owner, milliseconds, session, fence
local owner, ours, fence = redis.call('GET', KEYS[1]), tonumber(ARGV[4] or '0'), 0
if KEYS[3] then fence = tonumber(redis.call('HGET', KEYS[3], '0') or '0') end
if fence > ours or (fence == ours and owner and owner ~= ARGV[1]) then return 0 end
if KEYS[3] then redis.call('HSET', KEYS[3], '0', ARGV[4], '0:owner', ARGV[1]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
"""
"""Take or renew a session's lease, held by name: 1, or 0 while somebody else holds it. The session counts as live.

With a fence: 0 when a higher one was given since; a server that has forgotten it, or its latest, is told again."""

SEIZE_LEASE = """
-- KEYS: lease, live sessions, fences of the gateway     ARGV: owner, milliseconds, session, who ends sessions
if ARGV[4] ~= '' then
  if redis.call('SISMEMBER', KEYS[2], ARGV[3]) == 0 or redis.call('GET', KEYS[1]) == ARGV[4] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], '0:owner', ARGV[1])
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
