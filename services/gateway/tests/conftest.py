"""A gateway with fake router, stage and shard store behind real gRPC, all on port 0."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.errors import ShoalError, Unavailable
from shoal_common.rpc import RpcServer, locator
from shoal_common.settings import FleetSettings
from shoal_common.tokens import ModelTokens
from shoal_common.tokens.model_tokens import FILE_NAMES
from shoal_gateway.app import running
from shoal_gateway.settings import Settings

MODEL_FOLDER = Path(__file__).parents[3] / "models" / "heavyweight"
KEY = "k" * 64
CONTEXT_LENGTH = 512
STOP_ID = 2


def model_files() -> dict[str, bytes]:
    return {
        name: (MODEL_FOLDER / name).read_bytes()
        for name in FILE_NAMES
        if (MODEL_FOLDER / name).exists()
    }


@pytest.fixture(scope="session")
def demo_tokens() -> ModelTokens:
    return ModelTokens.from_files(model_files())


class FakeShardStore(shard_store_pb2_grpc.ShardStoreServiceServicer):
    """Serves one model's text files; `files` may be changed before the first request."""

    def __init__(self) -> None:
        self.files = model_files()
        self.manifest_reads = 0
        self.corrupt = False

    async def GetManifest(self, request: Any, context: Any) -> Any:
        self.manifest_reads += 1
        entries = {
            name: {"digest": blake3(data).hexdigest(), "size_bytes": len(data)}
            for name, data in self.files.items()
        }
        manifest = json.dumps({"format": 1, "files": entries}).encode()
        return shard_store_pb2.GetManifestResponse(
            model=request.model, revision=request.revision, manifest_json=manifest
        )

    async def ReadBlob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        data = next(d for d in self.files.values() if blake3(d).hexdigest() == request.digest)
        if self.corrupt:
            data = data[:-1] + b"x"
        for start in range(0, len(data), 65536):
            yield shard_store_pb2.ReadBlobResponse(
                offset_bytes=start, data=data[start : start + 65536]
            )


class FakeStage(stage_pb2_grpc.StageServiceServicer):
    """Says `reply_ids`, one token a delta, then the stop id.

    fail_at: positions at which an attempt raises, one for each attempt. hold: the position before
    which it waits until `hold` changes; meanwhile it says that it lives, unless it `is_mute`.
    ends_at: the position before which it ends without a word. finishes: says that it has ended.
    skips: positions left out at the start. refusal: raised at once.
    """

    def __init__(self) -> None:
        self.reply_ids: list[int] = []
        self.fail_at: list[int] = []
        self._hold: int | None = None
        self._hold_changed = asyncio.Event()
        self.is_mute = False
        self.ends_at: int | None = None
        self.finishes = True
        self.skips = 0
        self.refusal: ShoalError | None = None
        self.requests: list[Any] = []
        self.is_holding = asyncio.Event()
        self.alive_count = 0
        self.is_alive = asyncio.Event()
        self.is_cancelled = asyncio.Event()
        self.running_count = 0

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.running_count += 1
        try:
            async for response in self._events(request):
                yield response
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise
        finally:
            self.running_count -= 1

    async def _events(self, request: Any) -> AsyncIterator[Any]:
        if self.refusal is not None:
            raise self.refusal
        yield stage_pb2.GenerateResponse(admitted=stage_pb2.Admitted(cached_token_count=3))
        fail_at = self.fail_at.pop(0) if self.fail_at else None
        # A replay repeats its last token, as a head may.
        start = max(0, len(request.generated.ids) - 1) + self.skips
        ids = [*self.reply_ids, STOP_ID][: request.max_tokens]
        for position in range(start, len(ids)):
            if position == self.ends_at:
                return
            if position == fail_at:
                raise Unavailable("the next stage is gone")
            if position == self.hold:
                self.is_holding.set()
                async for response in self._held(request):
                    yield response
            yield _delta(position, ids[position], request.sampling)
        if self.finishes:
            is_stop = ids[-1] == STOP_ID
            reason = stage_pb2.FINISH_REASON_STOP if is_stop else stage_pb2.FINISH_REASON_LENGTH
            yield stage_pb2.GenerateResponse(finished=stage_pb2.Finished(reason=reason))

    @property
    def hold(self) -> int | None:
        return self._hold

    @hold.setter
    def hold(self, position: int | None) -> None:
        self._hold = position
        self._hold_changed.set()

    async def _held(self, request: Any) -> AsyncIterator[Any]:
        position = self.hold
        if self.is_mute:
            await asyncio.Event().wait()
        while self.hold == position:
            self._hold_changed.clear()
            yield stage_pb2.GenerateResponse(alive=stage_pb2.Alive())
            self.alive_count += 1
            self.is_alive.set()
            try:
                async with asyncio.timeout(request.keep_alive_ms / 1000):
                    await self._hold_changed.wait()
            except TimeoutError:
                continue


def _delta(position: int, token_id: int, sampling: Any) -> Any:
    token = stage_pb2.GeneratedToken(token_id=token_id)
    if sampling.logprobs:
        token.logprob = -0.5
        for rank in range(sampling.logprob_count):
            token.top.add(token_id=token_id + rank, logprob=-0.5 - rank)
    delta = stage_pb2.TokensDelta(first_position=position, tokens=[token])
    return stage_pb2.GenerateResponse(tokens=delta)


class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    """`models` on one stage. `plan_count` plans are given out per request, then silence."""

    def __init__(self) -> None:
        self.stage_locator = ""
        self.models = ["heavyweight"]
        self.plan_count = 1
        self.is_ready = True
        self.is_loadable = False
        self.readiness = router_pb2.MODEL_READINESS_READY
        self.loading_percent = 0
        self.context_length = CONTEXT_LENGTH
        self.error: ShoalError | None = None
        self.queue: asyncio.Event | None = None
        self.opened: list[Any] = []
        self.lost: list[Any] = []
        self.list_count = 0
        self.closed_count = 0
        self.is_closed = asyncio.Event()

    async def ListModels(self, request: Any, context: Any) -> Any:
        self.list_count += 1
        states = [
            router_pb2.ModelState(
                model=model,
                revision="r1",
                layer_count=6,
                is_ready=self.is_ready,
                context_length=self.context_length,
                is_loadable=self.is_loadable,
                readiness=self.readiness,
                loading_percent=self.loading_percent,
            )
            for model in self.models
        ]
        return router_pb2.ListModelsResponse(models=states)

    async def Plan(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in self._answers(requests):
                yield response
        finally:
            self.closed_count += 1
            self.is_closed.set()

    async def _answers(self, requests: Any) -> AsyncIterator[Any]:
        attempt = 0
        async for request in requests:
            if request.WhichOneof("event") == "open":
                self.opened.append(request.open)
                if self.error is not None:
                    raise self.error
                if self.queue is not None:
                    yield router_pb2.PlanResponse(queued=router_pb2.QueuePosition(position=1))
                    await self.queue.wait()
            else:
                self.lost.append(request.stage_lost)
            attempt += 1
            if attempt <= self.plan_count:
                yield self._plan(attempt)

    def _plan(self, attempt: int) -> Any:
        stage = pipeline_pb2.PipelineStage(
            node_id="node-a",
            incarnation=f"i{attempt}",
            layer_stop=6,
            locator=self.stage_locator,
        )
        pipeline = pipeline_pb2.Pipeline(
            pipeline_id="p1", model="heavyweight", model_revision="r1", stages=[stage]
        )
        return router_pb2.PlanResponse(plan=router_pb2.Plan(attempt=attempt, pipeline=pipeline))


@dataclass
class Fleet:
    """A running gateway and its fakes."""

    url: str
    router: FakeRouter
    stage: FakeStage
    store: FakeShardStore
    router_server: RpcServer
    stage_server: RpcServer
    store_server: RpcServer
    tokens: ModelTokens = field(repr=False)

    def says(self, text: str) -> None:
        self.stage.reply_ids = self.tokens.encode(text)


StartFleet = Callable[..., Any]


@asynccontextmanager
async def running_fleet(
    data_dir: Path, tokens: ModelTokens, template: str = "", **settings: Any
) -> AsyncIterator[Fleet]:
    """A gateway and its fakes, as long as the context is open."""
    router, stage, store = FakeRouter(), FakeStage(), FakeShardStore()
    if template:
        store.files["chat_template.jinja"] = template.encode()
    servers = [RpcServer("127.0.0.1:0", drain_timeout_s=0.1) for _ in range(3)]
    servers[0].add(router_pb2_grpc.add_RouterServiceServicer_to_server, router)
    servers[1].add(stage_pb2_grpc.add_StageServiceServicer_to_server, stage)
    servers[2].add(shard_store_pb2_grpc.add_ShardStoreServiceServicer_to_server, store)
    addresses = [await server.start() for server in servers]
    router.stage_locator = locator(addresses[1])
    waits = {"replan_timeout_s": 0.2, "router_wait_s": 0.2, "drain_timeout_s": 0.5}
    values = {"api_key": KEY} | waits | settings
    configured = Settings(
        listen_port=0,
        router_address=addresses[0],
        shard_store_address=addresses[2],
        template_workers=1,
        fleet=FleetSettings(data_dir=data_dir),
        **values,
    )
    try:
        async with running(configured) as (address, _):
            fleet = Fleet(f"http://{address}", router, stage, store, *servers, tokens)
            fleet.says("hello")
            yield fleet
    finally:
        for server in servers:
            await server.stop()


@pytest.fixture
def start_fleet(tmp_path: Path, demo_tokens: ModelTokens) -> StartFleet:
    return partial(running_fleet, tmp_path, demo_tokens)


@pytest.fixture
async def fleet(start_fleet: StartFleet) -> AsyncIterator[Fleet]:
    async with start_fleet() as fleet:
        yield fleet
