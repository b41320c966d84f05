"""State that replicas of the gateway share and may lose: Redis, where there is one."""

from __future__ import annotations

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
CONNECTIONS_MAX = 64


def connect(url: str) -> redis.Redis | None:
    """A client that dials when it is first used; None without a `url`.

    Its calls raise redis.exceptions.RedisError within seconds when the server is away; values are
    bytes. More than `CONNECTIONS_MAX` at once wait for one another.
    """
    if not url:
        return None
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=30,
    )
    return redis.Redis.from_pool(pool)
