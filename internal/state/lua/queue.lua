-- Runs before begin: replicas take turns at a team's lock. Each that waits for it has an entry in the queue,
-- for the call that is next there: "class since ends served holder caller".
-- KEYS: …, queue; ARGV: name, holder, …, replica ('' does not wait), class, caller, look ('1': the lock is not to be taken yet)
local function others_first()
  local queue, holder = KEYS[#KEYS], ARGV[2]
  local replica, class, caller, look = unpack(ARGV, #ARGV - 3)
  if replica == '' then return false end
  local lock = redis.pcall('HMGET', KEYS[1], 'change', 'holder', 'by')
  if lock.err or lock[1] and lock[2] == holder and lock[3] == holder then return false end -- it asks again for what it has
  local entries = redis.pcall('HGETALL', queue)
  if entries.err then -- somebody else wrote this: nothing is believed of it
    redis.call('DEL', queue)
    entries = {}
  end
  if lock[1] == false and #entries == 0 then return false end -- free, and nobody waits
  local life, most = 1000, 32
  local since, waiting, own = us, {}, nil
  for i = 1, #entries, 2 do
    local c, s, ends, served, h, who = string.match(entries[i + 1], '^(%d) (%d+) (%d+) (%d) (%w+) (%w*)$')
    c, s, ends = tonumber(c), tonumber(s), tonumber(ends)
    if not c or ends < now or ends > now + life or s > us or #waiting >= most then
      redis.call('HDEL', queue, entries[i])
    elseif entries[i] ~= replica then
      if served == '0' then waiting[#waiting + 1] = {replica = entries[i], class = c, since = s, ends = ends, holder = h, caller = who} end
    elseif who == caller and (served == '0' or h == holder) then
      since = s -- the caller keeps its place until it is served, be it by another of its calls
      own = served
    end
  end
  local first = true
  for _, w in ipairs(waiting) do
    if w.class < tonumber(class) or w.class == tonumber(class) and w.since < since then first = false end
  end
  local function write(name, c, s, ends, served, h, who)
    redis.call('HSET', queue, name, table.concat({c, n(s), n(ends), served, h, who}, ' '))
  end
  local free = not lock[1]
  if free and first and look ~= '1' then
    -- All that wait here for the same caller go to the end of the queue, and this entry goes soon: it stays in
    -- case that begin has to be asked again.
    write(replica, class, since, now + 100, '1', holder, caller)
    for _, w in ipairs(waiting) do
      if w.caller == caller and own ~= '1' then write(w.replica, w.class, us, w.ends, '0', w.holder, w.caller) end
    end
  else
    write(replica, class, since, now + life, own or '0', holder, caller)
  end
  redis.call('PEXPIRE', queue, 2 * life)
  return free and not first
end
if others_first() then return {'busy', '0'} end
