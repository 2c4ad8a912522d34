-- KEYS: bucket; ARGV: for how long (µs)
local tat = us + ARGV[1]
if num(get(KEYS[1]), 0) < tat then
  redis.call('SET', KEYS[1], n(tat), 'PX', n(math.ceil(ARGV[1] / 1000) + 1000))
end
return 1
