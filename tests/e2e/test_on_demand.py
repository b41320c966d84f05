"""Models come when somebody asks for them, and leave when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from shoal.router.v1 import router_pb2
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal_common.clock import SystemClock
from shoal_common.rpc import RpcChannel
from tests.e2e.driving import Driver
from tests.e2e.fleet import MODELS, Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

LOADABLE = router_pb2.MODEL_READINESS_LOADABLE
# Between two questions to other processes: asking without pause would keep them from their work.
POLL_S = 0.1


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    environment = {"SHOAL_WORKER_GPU_IDLE_MODEL_S": "1"}
    with fleet_up(tmp_path, models=["heavyweight"], environment=environment) as fleet:
        yield fleet


async def import_model(fleet: Fleet, folder: Path) -> None:
    channel = RpcChannel(fleet.address("shard-store"), token=fleet.token)
    stub = shard_store_pb2_grpc.ShardStoreServiceStub(channel.channel)
    request = shard_store_pb2.ImportModelRequest(request_id="test", path=str(folder))
    async for _ in stub.ImportModel(request, timeout=60):
        pass
    await channel.close()


async def ask(client: AsyncOpenAI, model: str) -> str:
    reply = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=32,
    )
    return reply.choices[0].message.content or ""


async def until(driver: Driver, model: str, readiness: router_pb2.ModelReadiness) -> None:
    async with asyncio.timeout(60):
        while (await driver.readiness()).get(model) != readiness:
            await SystemClock().sleep(POLL_S)


async def until_empty(driver: Driver) -> None:
    """Wait until no worker holds anything, not even on its way out."""
    async with asyncio.timeout(60):
        while any(worker.beat.engines for worker in (await driver.fleet()).workers):
            await SystemClock().sleep(POLL_S)


async def test_models_come_when_asked_for_and_leave_when_idle(
    fleet: Fleet, client: AsyncOpenAI, driver: Driver
) -> None:
    await import_model(fleet, MODELS / "drafter")
    await until(driver, "drafter", LOADABLE)
    assert await ask(client, "drafter")
    await until_empty(driver)
    listed = {model.id: model.model_dump() for model in (await client.models.list()).data}
    assert {name: model["is_ready"] for name, model in listed.items()} == {
        "drafter": False,
        "heavyweight": False,
    }
    assert not [p for p in fleet.processes() if "shoal_worker_gpu.engine_child" in p.cmdline()]
    assert await ask(client, "heavyweight") == "The capital of France is Paris."
