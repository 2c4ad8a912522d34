-- KEYS: team, unsettled, held; ARGV: name, holder, epoch, hold (ms)
local m = redis.pcall('HMGET', KEYS[1], 'holder', 'epoch', 'record')
if m.err or m[1] ~= ARGV[2] or m[2] ~= ARGV[3] then return 0 end
drop(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[4]), m[3])
return 1
