-- Begins every script: Redis's own clock is the only one that counts, and
-- numbers are written out, since Lua would shorten them.
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local now = math.floor(us / 1000)
local function n(x) return string.format('%.0f', x) end

-- num reads a number that somebody else may have written: what is none is default.
local function num(x, default)
  x = tonumber(x)
  if x and x >= 0 and x < 9e15 then return math.floor(x) end -- not so of NaN
  return default
end

-- short is x, but for one that is longer than all that is written here, which opens for
-- nobody: each replica would take that much memory to read it.
local function short(x)
  if x and #x > 65536 then return '' end
  return x
end

-- get reads a value; one that is of another type, or too long, is '', which opens for nobody.
local function get(key)
  local v = redis.pcall('GET', key)
  if type(v) == 'table' then return '' end
  return short(v)
end

-- own takes a key away that is of another type than the scripts give it: somebody else
-- wrote it, and every script that uses it would fail until somebody deletes it.
local function own(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then redis.call('DEL', key) end
end

-- drop has a team forget a change that can't be read. Nobody else changes the team
-- for the hold, since the change may have been sent; then nothing is left of it.
local function drop(team, unsettled, held, name, hold, record)
  redis.call('DEL', team)
  redis.call('HSET', team, 'change', '', 'hold', n(now + hold), 'due', n(now + hold), 'record', record or '')
  redis.call('PEXPIRE', team, n(hold))
  redis.call('ZREM', unsettled, name)
  redis.call('ZREM', held, name)
end

-- take_over gives the lock of a team to who settles what was begun there.
local function take_over(team, unsettled, name, owner, lease, hold)
  local m = redis.call('HMGET', team, 'until', 'change', 'hold', 'epoch', 'known', 'by', 'known_by')
  local epoch = math.max(num(m[4], 0) + 1, us)
  local ends = num(m[3], num(m[1], now) + hold)
  redis.call('HSET', team, 'holder', owner, 'until', n(now + lease), 'epoch', n(epoch), 'hold', n(ends))
  redis.call('ZADD', unsettled, n(now + lease), name)
  return {'unsettle', n(epoch), short(m[2]), short(m[6]) or '', n(now), n(ends), short(m[5]) or '', short(m[7]) or ''}
end

-- reserve takes room in a budget, and returns how long to wait, in microseconds;
-- more than most says that there is none.
local function reserve(bucket, interval, burst, most)
  if interval == 0 then return 0 end
  local tat = num(get(bucket), 0)
  local wait = math.max(tat - burst - us, 0)
  if wait > most then return wait end
  tat = math.max(tat, us) + interval
  redis.call('SET', bucket, n(tat), 'PX', n(math.ceil((tat - us) / 1000) + 1000))
  return wait
end
