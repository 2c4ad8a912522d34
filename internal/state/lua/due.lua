-- KEYS: unsettled; ARGV: how many
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', n(now), 'LIMIT', 0, ARGV[1])
