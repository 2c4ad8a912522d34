-- KEYS: team, record, answer, unsettled, bucket
-- ARGV: name, holder, lease, hold, change, params ('' without record), tombstone (ms), interval, burst, most (µs),
--       until when by this clock it may begin (ms; 0 is any time)
local team, record, answer, unsettled, bucket = unpack(KEYS)
local name, holder, lease, hold, change, params, tombstone, interval, burst, most, valid = unpack(ARGV)
if valid ~= '0' and now > tonumber(valid) then return {'late'} end
local open, lost = false, ''
if params ~= '' then
  local r = redis.call('HMGET', record, 'params', 'fate', 'token', 'failure')
  if r[1] then
    if r[1] ~= params then return {'reused'} end
    if r[2] == 'done' then
      return {'done', redis.call('GET', answer) or '', r[3] or '', r[4] or ''}
    end
    open, lost = true, r[3] or ''
  end
end
local m = redis.call('HMGET', team, 'holder', 'until', 'change', 'hold', 'epoch', 'known', 'due', 'record', 'by')
local mine = m[1] == holder and m[9] == holder -- the same question, asked again
if m[3] and not mine then
  local same = open and m[8] == record
  if m[1] and m[1] ~= holder and tonumber(m[2]) > now then
    if m[4] then return {same and 'unknown' or 'held', n(m[4] - now)} end
    return {same and 'running' or 'busy', n(m[2] - now)}
  end
  if m[7] and tonumber(m[7]) > now then
    return {same and 'unknown' or 'held', n(m[4] - now)}
  end
  return settle(team, unsettled, name, holder, tonumber(lease), tonumber(hold))
end
local wait = 0
if not mine then
  wait = reserve(bucket, tonumber(interval), tonumber(burst), tonumber(most))
  if wait > tonumber(most) then return {'over', n(wait)} end
end
local epoch = tonumber(m[5] or '0') + (mine and 0 or 1)
local ends = n(now + lease + math.ceil(wait / 1000))
redis.call('HDEL', team, 'hold', 'due')
redis.call('HSET', team, 'holder', holder, 'until', ends, 'change', change, 'epoch', n(epoch), 'begun', n(now), 'record', record, 'by', holder)
redis.call('PEXPIRE', team, tombstone)
redis.call('ZADD', unsettled, ends, name)
if params ~= '' then
  redis.call('HDEL', record, 'fate', 'failure')
  redis.call('HSET', record, 'params', params)
  redis.call('PEXPIRE', record, tombstone)
end
return {'granted', n(epoch), n(wait), m[6] or '', lost}
