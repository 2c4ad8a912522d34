-- KEYS: team, record, answer, unsettled, bucket, held, kept
-- ARGV: name, owner, lease, hold, change, new record ('' without), record that was seen ('' if none was), tombstone (ms),
--       interval, burst, max_wait (µs), until when by this clock it may begin (ms; 0 is any time), records that may be kept
local team, record, answer, unsettled, bucket, held, kept = unpack(KEYS)
local name, owner, lease, hold, change, new_record, seen, tombstone, interval, burst, max_wait, expires_at, quota = unpack(ARGV)
if expires_at ~= '0' and now > tonumber(expires_at) then return {'late'} end
own(unsettled, 'zset')
own(held, 'zset')
local m = redis.pcall('HMGET', team, 'holder', 'until', 'change', 'hold', 'epoch', 'known', 'due', 'record', 'by', 'known_by')
if m.err then -- it is no hash
  drop(team, unsettled, held, name, tonumber(hold))
  return {'broken', hold}
end
local is_retry = m[3] and m[1] == owner and m[9] == owner -- the same request, made again
local old = new_record ~= '' and get(record)
if old and (seen == '' or old ~= seen) and not is_retry then return {'record', old, get(answer) or ''} end
if new_record ~= '' and not old and not is_retry and keeps(kept) >= tonumber(quota) then return {'full'} end
if m[3] and not is_retry then
  local same_request = old and m[8] == record
  if m[1] and m[1] ~= owner and num(m[2], 0) > now then
    if m[4] then return {same_request and 'unknown' or 'held', n(num(m[4], now) - now)} end
    return {same_request and 'running' or 'busy', n(num(m[2], 0) - now)}
  end
  if m[7] and num(m[7], 0) > now then
    return {same_request and 'unknown' or 'held', n(num(m[4], now) - now)}
  end
  return take_over(team, unsettled, name, owner, tonumber(lease), tonumber(hold))
end
local wait = 0
if not is_retry then
  wait = reserve(bucket, tonumber(interval), tonumber(burst), tonumber(max_wait))
  if wait > tonumber(max_wait) then return {'over', n(wait)} end
end
local epoch = is_retry and num(m[5], us) or math.max(num(m[5], 0) + 1, us)
local ends = n(now + lease + math.ceil(wait / 1000))
redis.call('HSET', team, 'holder', owner, 'until', ends, 'epoch', n(epoch))
if not is_retry then
  redis.call('HDEL', team, 'hold', 'due')
  redis.call('HSET', team, 'change', change, 'record', record, 'by', owner)
  if new_record ~= '' then redis.call('SET', record, new_record, 'PX', tombstone) end
end
redis.call('PEXPIRE', team, tombstone)
redis.call('ZADD', unsettled, ends, name)
return {'granted', n(epoch), n(wait), short(m[6]) or '', short(m[10]) or '', is_retry and old or ''}
