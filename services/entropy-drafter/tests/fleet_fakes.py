"""Router and head of a fleet with one model, behind real gRPC, and the service before them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2, drafter_pb2_grpc
from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcChannel, RpcServer, locator
from shoal_common.settings import FleetSettings
from shoal_entropy_drafter.app import Drafter, running
from shoal_entropy_drafter.embedder.base import Embedded, Embedder
from shoal_entropy_drafter.settings import Settings

MODEL = "drafter"
CANDIDATES = 20
VOCABULARY = 2048
SURE = [-1e-6] + [-20.0] * (CANDIDATES - 1)
"""Candidates of a token that nothing else could be: 0 bits."""
DOUBTED = [math.log(1 / 11)] * 11 + [-20.0] * (CANDIDATES - 11)
"""Candidates of a token that eleven things could be: 3.5 bits."""
TORN = [math.log(1 / CANDIDATES)] * CANDIDATES
"""Candidates of a token that anything could be: 4.3 bits."""


@dataclass
class FakeStage(stage_pb2_grpc.StageServiceServicer):
    """Writes `script`, one token a delta: each the logprobs of its candidates.

    The attributes may be changed before a call. refusal: raised at once. lost_at: the position
    before which it raises. hold_at: the one before which it waits for `released`. ends_mute: no
    word at the end. counted: tokens it says it wrote, beyond those it showed.
    """

    script: Sequence[Sequence[float]] = ()
    refusal: ShoalError | None = None
    lost: ShoalError | None = None
    lost_at: int | None = None
    hold_at: int | None = None
    ends_mute: bool = False
    speaks_text: bool = False
    first_position: int = 0
    counted: int = 0
    requests: list[Any] = field(default_factory=list)
    is_holding: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        try:
            async for response in self._responses(request):
                yield response
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise

    async def _responses(self, request: Any) -> AsyncIterator[Any]:
        if self.refusal is not None:
            raise self.refusal
        yield stage_pb2.GenerateResponse(admitted=stage_pb2.Admitted(cached_token_count=3))
        if self.speaks_text:
            yield stage_pb2.GenerateResponse(text=stage_pb2.TextDelta(text="hello"))
        for position, logprobs in enumerate(self.script):
            if position == self.lost_at and self.lost is not None:
                raise self.lost
            if position == self.hold_at:
                self.is_holding.set()
                while not self.released.is_set():
                    yield stage_pb2.GenerateResponse(alive=stage_pb2.Alive())
                    try:
                        async with asyncio.timeout(request.keep_alive_ms / 1000):
                            await self.released.wait()
                    except TimeoutError:
                        continue
            yield self._delta(position, logprobs)
        if not self.ends_mute:
            yield stage_pb2.GenerateResponse(finished=self._finished())

    def _delta(self, position: int, logprobs: Sequence[float]) -> Any:
        token = stage_pb2.GeneratedToken(token_id=100 + position, logprob=-0.5)
        for rank, logprob in enumerate(logprobs):
            token.top.add(token_id=100 + position + rank, logprob=logprob)
        first_position = self.first_position + position
        delta = stage_pb2.TokensDelta(first_position=first_position, tokens=[token])
        return stage_pb2.GenerateResponse(tokens=delta)

    def _finished(self) -> Any:
        return stage_pb2.Finished(
            reason=stage_pb2.FINISH_REASON_STOP,
            prompt_token_count=3,
            generated_token_count=len(self.script) + self.counted,
            cached_token_count=2,
            timings=[stage_pb2.StageTiming(node_id="node-a", compute_us=7)],
        )


@dataclass
class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    """One model on one stage; `pipeline` is what its plan says."""

    pipeline: Any = field(default_factory=pipeline_pb2.Pipeline)
    refusal: ShoalError | None = None
    queue: asyncio.Event | None = None
    opened: list[Any] = field(default_factory=list)
    is_queued: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def Plan(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                self.opened.append(request.open)
                if self.refusal is not None:
                    raise self.refusal
                if self.queue is not None:
                    self.is_queued.set()
                    yield router_pb2.PlanResponse(queued=router_pb2.QueuePosition(position=1))
                    await self.queue.wait()
                yield router_pb2.PlanResponse(plan=self.plan)
        finally:
            self.is_closed.set()

    @property
    def plan(self) -> Any:
        return router_pb2.Plan(attempt=1, pipeline=self.pipeline)


class FakeEmbedder:
    """Vectors of two numbers by a text's length; `refusal` is raised instead."""

    model = "fake"
    dimensions = 2

    def __init__(self) -> None:
        self.refusal: ShoalError | None = None
        self.texts: list[list[str]] = []
        self.is_closed = False

    async def embed(self, texts: Sequence[str]) -> Embedded:
        if self.refusal is not None:
            raise self.refusal
        self.texts.append(list(texts))
        angles = np.array([len(text) / 100 for text in texts], dtype=np.float32)
        return Embedded(np.stack([np.cos(angles), np.sin(angles)], axis=1), len(texts))

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class Fleet:
    """A running service and its fakes."""

    router: FakeRouter
    stage: FakeStage
    router_server: RpcServer
    stage_server: RpcServer
    embedder: FakeEmbedder
    drafter: Drafter
    stub: Any

    async def answer(self, request: Any) -> list[Any]:
        """All events of an answer."""
        return [event async for event in self.stub.Answer(request)]

    async def metrics(self) -> str:
        """What `/metrics` shows."""
        return await side_page(self.drafter.side_address, "/metrics")


async def side_page(address: str, path: str) -> str:
    """A page of the side port, head and all."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    page = await reader.read()
    writer.close()
    return page.decode()


def settings_of(data_dir: Path, **settings: Any) -> Settings:
    """Small windows, so that short scripts are enough."""
    numbers = {"threshold_bits": 1.0, "window_size": 4, "early_exit_count": 4, "top_logprobs": 20}
    waits = {"drain_timeout_s": 0.5}
    values: dict[str, Any] = {"drafter_model": MODEL} | numbers | waits | settings
    return Settings(fleet=FleetSettings(data_dir=data_dir), **values)


@asynccontextmanager
async def running_fleet(
    data_dir: Path, other_embedder: Embedder | None = None, **settings: Any
) -> AsyncIterator[Fleet]:
    """Fakes and the service, all on port 0."""
    router, stage, embedder = FakeRouter(), FakeStage(), FakeEmbedder()
    servers = [RpcServer("127.0.0.1:0", drain_timeout_s=0.1) for _ in range(2)]
    servers[0].add(router_pb2_grpc.add_RouterServiceServicer_to_server, router)
    servers[1].add(stage_pb2_grpc.add_StageServiceServicer_to_server, stage)
    async with AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        router.pipeline = pipeline_of(locator(servers[1].address))
        values: dict[str, Any] = {"router_address": servers[0].address} | settings
        configured = settings_of(data_dir, **values)
        drafter = await stack.enter_async_context(running(configured, other_embedder or embedder))
        channel = await stack.enter_async_context(RpcChannel(drafter.grpc_address))
        stub = drafter_pb2_grpc.DrafterServiceStub(channel.channel)
        yield Fleet(router, stage, *servers, embedder, drafter, stub)


def pipeline_of(where: str) -> Any:
    stage = pipeline_pb2.PipelineStage(
        node_id="node-a", incarnation="i1", layer_stop=6, locator=where
    )
    return pipeline_pb2.Pipeline(pipeline_id="p1", model=MODEL, model_revision="r1", stages=[stage])


def task_of(text: str = "What is the capital of France?", **fields: Any) -> Any:
    message = chat_pb2.ChatMessage(
        role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text=text)]
    )
    return chat_pb2.ChatTask(model="cascade", messages=[message], max_tokens=64, **fields)


def request_of(request_id: str = "q1", task: Any = None, **fields: Any) -> Any:
    """A request with a fleet draft."""
    generate = stage_pb2.GenerateRequest(
        request_id=request_id,
        token_ids=stage_pb2.TokenIds(ids=[5, 6, 7]),
        sampling=chat_pb2.SamplingSpec(temperature=0.0),
        max_tokens=64,
        stop_token_ids=[2],
    )
    plan = router_pb2.PlanOpen(request_id=request_id, model=MODEL, prompt_token_count=3)
    draft = drafter_pb2.FleetDraft(plan=plan, generate=generate, vocabulary_size=VOCABULARY)
    return drafter_pb2.AnswerRequest(
        request_id=request_id,
        task=task if task is not None else task_of(),
        fleet_draft=fields.pop("fleet_draft", draft),
        **fields,
    )
