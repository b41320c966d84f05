"""Engines of one pipeline in this process, with real gRPC between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, Generic, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.clock import Clock, SystemClock
from shoal_common.ids import new_incarnation
from shoal_common.rpc import RpcChannel, RpcServer, locator, translated
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.engine_child import build_engine, run_engine
from shoal_worker_gpu.links import Speaker
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.rpc import Engine, StageRpc
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend

LAYER_COUNT = 6
B = TypeVar("B", bound=Backend)


class Node(Generic[B]):
    """One engine with its server.

    rpc: may be replaced before `start` by one that misbehaves.
    """

    def __init__(
        self,
        backend: B,
        settings: Settings,
        name: str,
        *,
        clock: Clock | None = None,
        ack_timeout_s: float = 1.0,
    ) -> None:
        self.backend = backend
        self.name = name
        self.incarnation = new_incarnation()
        self.speaker = Speaker(name, self.incarnation, "", 5.0, ack_timeout_s)
        self.metrics = EngineMetrics(CollectorRegistry())
        self.engine: Engine
        self.server = RpcServer("127.0.0.1:0", drain_timeout_s=0)
        self.rpc = StageRpc(self.incarnation, pipeline_pb2.EngineStatus)
        self._clock = clock or SystemClock()
        self._settings = settings
        self._running: asyncio.Task[None] | None = None

    def rename(self, name: str) -> None:
        """Before `start`."""
        self.name = name
        self.speaker = replace(self.speaker, node_id=name)

    async def start(self) -> None:
        self.engine = build_engine(
            self.backend, self._settings, self.speaker, self.metrics, self._clock
        )
        self.rpc.engine = self.engine
        self.server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, self.rpc)
        await self.server.start()
        self._running = asyncio.create_task(run_engine(self.engine))

    async def stop(self) -> None:
        if isinstance(self.backend, HashBackend):
            self.backend.gate.set()
        await self.server.stop()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self.engine.links.close()

    def stage(self) -> pipeline_pb2.PipelineStage:
        return pipeline_pb2.PipelineStage(
            node_id=self.name,
            incarnation=self.incarnation,
            layer_start=self.backend.layer_start,
            layer_stop=self.backend.layer_stop,
            locator=locator(self.server.address),
        )


class Pipeline(Generic[B]):
    """Nodes that cover all layers, and what a driver does with them."""

    def __init__(self, nodes: Sequence[Node[B]]) -> None:
        self.nodes = nodes
        self.plan = pipeline_pb2.Pipeline(
            pipeline_id="p", revision=1, model="m", stages=[node.stage() for node in nodes]
        )
        self._channel = RpcChannel(nodes[0].server.address)
        self._stub = stage_pb2_grpc.StageServiceStub(self._channel.channel)

    async def close(self) -> None:
        await self._channel.close()

    def request(self, prompt: Sequence[int], count: int) -> stage_pb2.GenerateRequest:
        return stage_pb2.GenerateRequest(
            request_id="r",
            pipeline=self.plan,
            attempt=1,
            token_ids=stage_pb2.TokenIds(ids=prompt),
            max_tokens=count,
        )

    async def events(
        self, request: stage_pb2.GenerateRequest
    ) -> AsyncIterator[stage_pb2.GenerateResponse]:
        with translated():
            async for response in self._stub.Generate(request):
                yield response

    async def tokens(self, prompt: Sequence[int], count: int) -> list[int]:
        found: list[int] = []
        async for event in self.events(self.request(prompt, count)):
            for token in event.tokens.tokens:
                assert event.tokens.first_position == len(found)
                found.append(token.token_id)
        return found

    def free_blocks(self) -> list[int]:
        return [node.backend.blocks_free for node in self.nodes]

    async def until_free(self) -> None:
        """Wait until every block of every stage is free again."""
        totals = [node.backend.blocks_total for node in self.nodes]
        async with asyncio.timeout(5):
            # A round trip to the head lets every pending message be handled.
            while self.free_blocks() != totals:
                await self._stub.GetEngine(stage_pb2.GetEngineRequest())


@asynccontextmanager
async def running(nodes: Sequence[Node[B]]) -> AsyncIterator[Pipeline[B]]:
    """Start the nodes; stop whatever has started at the end."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.stop)
        pipeline = Pipeline(nodes)
        stack.push_async_callback(pipeline.close)
        yield pipeline


def hash_nodes(
    cuts: Sequence[int],
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
    ack_timeout_s: float = 1.0,
    **options: int,
) -> list[Node[HashBackend]]:
    """Nodes worker-0, worker-1 ... that are not started yet."""
    return [
        Node(
            HashBackend(start, stop, LAYER_COUNT, **options),
            settings or Settings(block_size_tokens=4),
            f"worker-{index}",
            clock=clock,
            ack_timeout_s=ack_timeout_s,
        )
        for index, (start, stop) in enumerate(pairwise([0, *cuts, LAYER_COUNT]))
    ]


@pytest.fixture
async def make_pipeline() -> AsyncIterator[Callable[..., object]]:
    """`await make_pipeline(cuts, **options of hash_nodes)`, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def make(
            cuts: Sequence[int] = (), settings: Settings | None = None, **options: Any
        ) -> Pipeline[HashBackend]:
            return await stack.enter_async_context(running(hash_nodes(cuts, settings, **options)))

        yield make
