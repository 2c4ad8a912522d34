-- KEYS: team, unsettled; ARGV: name, holder, epoch, lease (ms), change ('' if nothing is begun anew), known, who wrote that
own(KEYS[2], 'zset')
local m = redis.pcall('HMGET', KEYS[1], 'holder', 'epoch')
if m.err or m[1] ~= ARGV[2] or m[2] ~= ARGV[3] then return 0 end
local ends = n(now + ARGV[4])
redis.call('HSET', KEYS[1], 'until', ends)
redis.call('ZADD', KEYS[2], ends, ARGV[1])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'change', ARGV[5], 'known', ARGV[6], 'known_by', ARGV[7]) end
return 1
