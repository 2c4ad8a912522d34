-- KEYS: team, unsettled, held; ARGV: name, holder, lease, hold (ms)
own(KEYS[2], 'zset')
own(KEYS[3], 'zset')
local m = redis.pcall('HMGET', KEYS[1], 'holder', 'until', 'change', 'due')
if m.err then -- it is no hash
  drop(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[4]))
  return {'broken'}
end
if not m[3] or m[3] == '' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {''}
end
if m[1] and num(m[2], 0) > now or not m[1] and num(m[4], 0) > now then return {''} end
return take_over(KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
