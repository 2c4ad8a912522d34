-- KEYS: queue; ARGV: replica, holder
local entry = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(entry) == 'string' and string.find(entry, ' ' .. ARGV[2] .. ' ', 1, true) then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
