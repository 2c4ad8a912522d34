-- KEYS: replicas; ARGV: replica, life (ms)
redis.call('ZADD', KEYS[1], n(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', n(now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {n(redis.call('ZCARD', KEYS[1])), n(now)}
