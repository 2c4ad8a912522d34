-- KEYS: bucket; ARGV: interval, burst, most (µs)
return n(reserve(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])))
