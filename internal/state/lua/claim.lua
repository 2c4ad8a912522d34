-- KEYS: team, unsettled; ARGV: name, holder, lease, hold (ms)
local m = redis.call('HMGET', KEYS[1], 'holder', 'until', 'change', 'due')
if not m[3] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {''}
end
if m[1] and tonumber(m[2]) > now or not m[1] and m[4] and tonumber(m[4]) > now then return {''} end
return settle(KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
