-- KEYS: replicas, held; ARGV: replica, life (ms)
own(KEYS[1], 'zset')
own(KEYS[2], 'zset')
redis.call('ZADD', KEYS[1], n(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', n(now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', n(now - 60000)) -- of a team whose keys are gone
return {n(redis.call('ZCARD', KEYS[1])), n(now), n(redis.call('ZCARD', KEYS[2]))}
