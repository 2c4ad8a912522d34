-- Begins every script: Redis's own clock is the only one that counts, and
-- numbers are written out, since Lua would shorten them.
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local now = math.floor(us / 1000)
local function n(x) return string.format('%.0f', x) end

-- settle gives the turn of a team to who settles what was begun there.
local function settle(team, unsettled, name, holder, lease, hold)
  local m = redis.call('HMGET', team, 'until', 'change', 'hold', 'epoch', 'known', 'begun')
  local epoch = tonumber(m[4]) + 1
  local held = tonumber(m[3] or (m[1] + hold))
  redis.call('HSET', team, 'holder', holder, 'until', n(now + lease), 'epoch', n(epoch), 'hold', n(held))
  redis.call('ZADD', unsettled, n(now + lease), name)
  return {'unsettle', n(epoch), m[2], n(now - m[6]), n(held - now), m[5] or ''}
end

-- reserve takes room in a budget, and returns how long to wait, in microseconds;
-- more than most says that there is none.
local function reserve(bucket, interval, burst, most)
  if interval == 0 then return 0 end
  local tat = tonumber(redis.call('GET', bucket) or '0')
  local wait = math.max(tat - burst - us, 0)
  if wait > most then return wait end
  tat = math.max(tat, us) + interval
  redis.call('SET', bucket, n(tat), 'PX', n(math.ceil((tat - us) / 1000) + 1000))
  return wait
end
