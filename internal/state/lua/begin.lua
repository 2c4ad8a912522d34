-- KEYS: team, record, answer, unsettled, bucket, held, kept
-- ARGV: name, holder, lease, hold, change, new record ('' without), record that was seen ('' if none was), tombstone (ms),
--       interval, burst, most (µs), until when by this clock it may begin (ms; 0 is any time), records that may be kept
local team, record, answer, unsettled, bucket, held, kept = unpack(KEYS)
local name, holder, lease, hold, change, opened, seen, tombstone, interval, burst, most, valid, quota = unpack(ARGV)
if valid ~= '0' and now > tonumber(valid) then return {'late'} end
own(unsettled, 'zset')
own(held, 'zset')
local m = redis.pcall('HMGET', team, 'holder', 'until', 'change', 'hold', 'epoch', 'known', 'due', 'record', 'by', 'known_by')
if m.err then -- it is no hash
  drop(team, unsettled, held, name, tonumber(hold))
  return {'broken', hold}
end
local mine = m[3] and m[1] == holder and m[9] == holder -- the same question, asked again
local old = opened ~= '' and get(record)
if old and (seen == '' or old ~= seen) and not mine then return {'record', old, get(answer) or ''} end
if opened ~= '' and not old and not mine and keeps(kept) >= tonumber(quota) then return {'full'} end
if m[3] and not mine then
  local same = old and m[8] == record
  if m[1] and m[1] ~= holder and num(m[2], 0) > now then
    if m[4] then return {same and 'unknown' or 'held', n(num(m[4], now) - now)} end
    return {same and 'running' or 'busy', n(num(m[2], 0) - now)}
  end
  if m[7] and num(m[7], 0) > now then
    return {same and 'unknown' or 'held', n(num(m[4], now) - now)}
  end
  return settle(team, unsettled, name, holder, tonumber(lease), tonumber(hold))
end
local wait = 0
if not mine then
  wait = reserve(bucket, tonumber(interval), tonumber(burst), tonumber(most))
  if wait > tonumber(most) then return {'over', n(wait)} end
end
local epoch = mine and num(m[5], us) or math.max(num(m[5], 0) + 1, us)
local ends = n(now + lease + math.ceil(wait / 1000))
redis.call('HSET', team, 'holder', holder, 'until', ends, 'epoch', n(epoch))
if not mine then
  redis.call('HDEL', team, 'hold', 'due')
  redis.call('HSET', team, 'change', change, 'record', record, 'by', holder)
  if opened ~= '' then redis.call('SET', record, opened, 'PX', tombstone) end
end
redis.call('PEXPIRE', team, tombstone)
redis.call('ZADD', unsettled, ends, name)
return {'granted', n(epoch), n(wait), short(m[6]) or '', short(m[10]) or '', mine and old or ''}
