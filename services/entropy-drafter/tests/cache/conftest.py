"""Both kinds of index under one name, a real Redis, and questions to ask."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from redis import asyncio as redis

from shoal_common.clock import SystemClock
from shoal_common.redis_client import connect
from shoal_common.testing.redis import RedisProcess, start_redis
from shoal_entropy_drafter.cache.base import Point, Vector, VectorIndex
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.edge import EdgeIndex
from shoal_entropy_drafter.cache.server import ServerIndex
from shoal_entropy_drafter.question import Question

from .fake_qdrant import FakeQdrant, served
from .memory_index import MemoryIndex, Shelf

SIZE = 16
MODEL = "all-MiniLM-L6-v2"
Opened = Callable[[Collection], VectorIndex]
"""Makes an index that is not started; all of one test see the same points."""


def collection(dimensions: int = SIZE, model: str = MODEL, name: str = "answers") -> Collection:
    return Collection(name, dimensions, model)


def unit(*numbers: float, size: int = SIZE) -> Vector:
    """A vector of length 1 that begins with these numbers."""
    vector = np.zeros(size, dtype=np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.linalg.norm(vector)


def point(
    vector: Vector,
    scope: str = "scope",
    tenant: str = "tenant",
    model: str = "model",
    expires_at: int = 100,
    id: str = "",
) -> Point:
    return Point(id or str(uuid.uuid4()), vector, scope, tenant, model, expires_at)


def question(
    text: str = "what is a shoal?", scope: str = "scope", tenant: str = "a", model: str = "m"
) -> Question:
    return Question(tenant, model, scope, f"key of {text}", text)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with start_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
async def client(redis_server: RedisProcess) -> AsyncIterator[redis.Redis]:
    connected = connect(redis_server.url)
    assert connected is not None
    await connected.flushall()
    yield connected
    await connected.aclose()


@pytest.fixture
async def qdrant() -> AsyncIterator[FakeQdrant]:
    async with served(FakeQdrant()) as fake:
        yield fake


@pytest.fixture(params=["edge", "server", "memory"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    if request.param == "memory":
        shelf = Shelf()
        yield lambda asked: MemoryIndex(shelf, asked)
        return
    kind = edge_indexes(tmp_path) if request.param == "edge" else server_indexes()
    async with kind as make:
        yield make


@asynccontextmanager
async def edge_indexes(folder: Path) -> AsyncIterator[Opened]:
    yield lambda asked: EdgeIndex(folder / "qdrant" / asked.name, asked, SystemClock())


@asynccontextmanager
async def server_indexes() -> AsyncIterator[Opened]:
    """On the server of SHOAL_TEST_QDRANT_URL where there is one, under a name of this test's."""
    real = os.environ.get("SHOAL_TEST_QDRANT_URL", "")
    suffix = uuid.uuid4().hex[:12] if real else ""
    names: set[str] = set()

    def make(url: str, asked: Collection) -> VectorIndex:
        named = Collection(asked.name + suffix, asked.dimensions, asked.embedding_model)
        names.add(named.name)
        return ServerIndex(url, "", named)

    if not real:
        async with served(FakeQdrant()) as fake:
            yield lambda asked: make(fake.url, asked)
        return
    yield lambda asked: make(real, asked)
    await _drop(real, names)


async def _drop(url: str, names: set[str]) -> None:
    from qdrant_client import AsyncQdrantClient

    qdrant = AsyncQdrantClient(url=url, check_compatibility=False)
    for name in names:
        await qdrant.delete_collection(name)
    await qdrant.close()
