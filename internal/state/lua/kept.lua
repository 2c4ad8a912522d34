
-- keeps counts the records that are kept for a caller, by the hours in which they were
-- written: one is forgotten after a day, so that the count is an hour late at most.
local hour = math.floor(now / 3600000)
local function keeps(kept)
  local fields, sum = redis.call('HGETALL', kept), 0
  for i = 1, #fields, 2 do
    if num(fields[i], 0) < hour - 24 then
      redis.call('HDEL', kept, fields[i])
    else
      sum = sum + num(fields[i + 1], 0)
    end
  end
  return sum
end
