-- KEYS: unsettled; ARGV: how many
own(KEYS[1], 'zset')
local teams = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', n(now), 'LIMIT', 0, ARGV[1])) do
  if #name > 256 then redis.call('ZREM', KEYS[1], name) else teams[#teams + 1] = name end -- longer than any team's
end
return teams
