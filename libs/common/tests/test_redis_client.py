"""Redis as services use it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from shoal_common.redis_client import connect
from shoal_common.testing.redis import start_redis


async def test_cancelling_ends_a_task_wherever_its_call_is(tmp_path: Path) -> None:
    """And leaves no connection on which another call would read its answer."""
    seed = 7
    print("seed", seed)
    rng = random.Random(seed)
    with start_redis(tmp_path) as redis:
        client = connect(redis.url)
        assert client is not None
        await client.set("name", b"shoal")

        async def read() -> bytes | None:
            value: bytes | None = await client.get("name")
            return value

        cancelled_count = 0
        for round_index in range(600):
            if round_index % 50 == 0:
                await client.connection_pool.disconnect()
            task = asyncio.create_task(read())
            for _ in range(rng.randint(1, 40)):
                await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                cancelled_count += 1
                await asyncio.wait((task,))
                assert task.cancelled()
            else:
                assert task.result() == b"shoal"
        assert cancelled_count > 50
        await client.aclose()
