-- KEYS: team, record, answer, unsettled, ended, held
-- ARGV: name, holder, epoch, unknown ('1'), hold, check (ms), known ('=' the same), fate ('' without record),
--       answer, answer's life (ms), token, failure, tombstone (ms)
local team, record, answer, unsettled, ended, held = unpack(KEYS)
local name, holder, epoch, unknown, hold, check, known, fate, sealed, life, token, failure, tombstone = unpack(ARGV)
local m = redis.call('HMGET', team, 'holder', 'epoch', 'hold')
if redis.call('GET', ended) == epoch then return 1 end -- the same word, said again
if m[1] ~= holder or m[2] ~= epoch then return 0 end
redis.call('HDEL', team, 'holder', 'until')
redis.call('SET', ended, epoch, 'PX', 60000) -- longer than anybody says it again
if unknown == '1' then
  if not m[3] then redis.call('HSET', team, 'hold', n(now + hold)) end
  redis.call('HSET', team, 'due', n(now + check))
  redis.call('ZADD', unsettled, n(now + check), name)
  redis.call('ZADD', held, n(now + check), name)
  return 1
end
redis.call('HDEL', team, 'change', 'begun', 'record', 'hold', 'due')
redis.call('ZREM', unsettled, name)
redis.call('ZREM', held, name)
if known == '' then
  redis.call('HDEL', team, 'known')
elseif known ~= '=' then
  redis.call('HSET', team, 'known', known)
end
local lost = fate == 'forget' and redis.call('HGET', record, 'token') or ''
if fate == 'forget' and lost ~= '' then
  redis.call('HSET', record, 'fate', 'lost')
elseif fate == 'forget' then
  redis.call('DEL', record, answer)
elseif fate ~= '' then
  redis.call('HSET', record, 'fate', fate, 'token', token, 'failure', failure)
  redis.call('PEXPIRE', record, tombstone)
  if sealed ~= '' then redis.call('SET', answer, sealed, 'PX', life) end
end
return 1
