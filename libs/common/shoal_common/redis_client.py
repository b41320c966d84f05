"""State that processes share and may lose: Redis, where there is one."""

from __future__ import annotations

import asyncio
from typing import Any

from redis import asyncio as redis
from redis.asyncio.connection import AbstractConnection
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
    pool.connection_class = _cancellable(pool.connection_class)
    return redis.Redis.from_pool(pool)


def _cancellable(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Connections of that kind on which cancelling a task always ends it.

    They send within asyncio.wait_for, which before Python 3.12 loses a cancellation that comes when
    what it waits for is just done.
    """

    class Cancellable(kind):  # type: ignore[valid-type, misc]
        async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
            task = asyncio.current_task()
            before = task.cancelling() if task is not None else 0
            await super().send_packed_command(*arguments, **options)
            if task is not None and task.cancelling() > before:
                # The answer that is on its way must not be taken for the next one's.
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    return Cancellable
