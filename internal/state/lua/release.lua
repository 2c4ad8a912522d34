-- KEYS: team, record, answer, unsettled, released, held, kept
-- ARGV: name, holder, epoch, unknown ('1'), hold, check (ms), known ('' if it is not), who wrote that,
--       record ('' to leave it, 'forget', or what it is from now on), whether it is one more ('1'), answer, its ttl (ms), tombstone (ms)
local team, record, answer, unsettled, released, held, kept = unpack(KEYS)
local name, holder, epoch, unknown, hold, check, known, by, what, more, response, ttl, tombstone = unpack(ARGV)
own(unsettled, 'zset')
own(held, 'zset')
own(kept, 'hash')
local m = redis.pcall('HMGET', team, 'holder', 'epoch', 'hold')
if m.err or m[1] ~= holder or m[2] ~= epoch then
  if get(released) == epoch .. ' ' .. unknown then return 2 end -- the same word, said again
  if what == 'forget' and redis.call('EXISTS', team) == 0 then return 1 end -- the same, and there was nothing to be kept
  return 0
end
if unknown == '1' then
  redis.call('SET', released, epoch .. ' ' .. unknown, 'PX', 10000) -- longer than anybody says it again
  redis.call('HDEL', team, 'holder', 'until')
  if not m[3] then redis.call('HSET', team, 'hold', n(now + hold)) end
  redis.call('HSET', team, 'due', n(now + check))
  redis.call('ZADD', unsettled, n(now + check), name)
  redis.call('ZADD', held, n(now + check), name)
  return 1
end
redis.call('ZREM', unsettled, name)
redis.call('ZREM', held, name)
if known == '' then
  redis.call('DEL', team) -- epochs go on by the clock
else
  redis.call('HDEL', team, 'holder', 'until', 'change', 'by', 'record', 'hold', 'due')
  redis.call('HSET', team, 'known', known, 'known_by', by)
end
if what ~= 'forget' or known ~= '' then redis.call('SET', released, epoch .. ' ' .. unknown, 'PX', 10000) end
if what == 'forget' then
  redis.call('DEL', record, answer)
elseif what ~= '' then
  redis.call('SET', record, what, 'PX', tombstone)
  if response ~= '' then redis.call('SET', answer, response, 'PX', ttl) end
  if more == '1' then
    redis.call('HSET', kept, n(hour), n(num(redis.call('HGET', kept, n(hour)), 0) + 1))
    redis.call('PEXPIRE', kept, 90000000) -- 25 h
  end
end
return 1
