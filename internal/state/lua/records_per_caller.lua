
-- keeps counts the records that are kept for a caller, by the hours in which they were
-- written: one is forgotten after a day, so that the count is an hour late at most.
local hour = math.floor(now / 3600000)
local function keeps(kept)
  own(kept, 'hash')
  if redis.call('HLEN', kept) > 32 then redis.call('DEL', kept) end -- there are 26 hours
  local fields, sum = redis.call('HGETALL', kept), 0
  for i = 1, #fields, 2 do
    local at = num(fields[i], 0)
    if at < hour - 24 or at > hour + 1 then
      redis.call('HDEL', kept, fields[i])
    else
      sum = sum + num(fields[i + 1], 0)
    end
  end
  return sum
end
