"""A gateway with a scripted entropy-drafter behind real gRPC, beside the fakes of a fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shoal.drafter.v1 import drafter_pb2, drafter_pb2_grpc
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcServer
from shoal_common.tokens import ModelTokens

from ..conftest import FakeRouter, FakeStage, running_fleet

KEY = "k" * 64
STOP_ID = 2
HEADERS = {"Authorization": f"Bearer {KEY}"}
CHAT: dict[str, Any] = {"model": "cascade", "messages": [{"role": "user", "content": "hi"}]}

Response = drafter_pb2.AnswerResponse
Step = drafter_pb2.AnswerResponse | ShoalError | asyncio.Event
DRAFT = "one two three four five six"
HEAVY = "one two three and then the rest"


def described(**fields: Any) -> drafter_pb2.DescribeResponse:
    values: dict[str, Any] = {
        "incarnation": "i1",
        "kind": drafter_pb2.DRAFTER_KIND_FLEET,
        "model": "drafter",
        "timeout_ms": 30_000,
        "threshold": 1.0,
        "window_size": 2,
        "early_exit_count": 2,
        "candidate_count": 20,
        "is_speculative": True,
        "has_cache": True,
        "statistic": "mean",
    }
    return drafter_pb2.DescribeResponse(**(values | fields))


def begun() -> Response:
    event = Response()
    event.begun.admitted.cached_token_count = 1
    event.begun.plan.pipeline.pipeline_id = "p-draft"
    return event


def delta(
    ids: Sequence[int], position: int, settled_count: int = 0, bits: float = 0.25
) -> Response:
    tokens = [stage_pb2.GeneratedToken(token_id=token_id) for token_id in ids]
    event = drafter_pb2.DraftDelta(
        first_position=position,
        entropy_bits=[bits] * len(tokens),
        tokens=tokens,
        settled_count=settled_count,
    )
    return Response(draft=event)


def text_delta(text: str, position: int) -> Response:
    event = drafter_pb2.DraftDelta(text=text, first_position=position, entropy_bits=[0.25])
    return Response(draft=event)


def verdict(kind: str, reason: str = "", statistic: float = 0.5) -> Response:
    value = drafter_pb2.Verdict.Value(f"VERDICT_{kind.upper()}")
    judgement = drafter_pb2.Judgement(verdict=value, reason=reason, statistic=statistic)
    return Response(judgement=judgement)


def ended(completion_token_count: int = 0, is_length: bool = False) -> Response:
    stop, length = stage_pb2.FINISH_REASON_STOP, stage_pb2.FINISH_REASON_LENGTH
    end = drafter_pb2.DraftEnd(
        reason=length if is_length else stop,
        prompt_token_count=7,
        completion_token_count=completion_token_count,
    )
    return Response(end=end)


def hit(text: str, layer: str = "semantic") -> Response:
    kept = drafter_pb2.CacheHit(
        text=text,
        similarity=0.971,
        age_s=12,
        layer=drafter_pb2.CacheLayer.Value(f"CACHE_LAYER_{layer.upper()}"),
        prompt_token_count=11,
        completion_token_count=4,
    )
    return Response(cache_hit=kept)


def accepted(ids: Sequence[int], window: int = 2) -> list[Step]:
    """A draft of which nothing is ever doubted, token by token."""
    steps: list[Step] = [begun()]
    for position, token_id in enumerate(ids):
        steps.append(delta([token_id], position, max(0, position + 2 - window)))
    return [*steps, ended(len(ids)), verdict("accept", statistic=0.25)]


def first(ids: Sequence[int], count: int, settled_count: int = 0) -> list[Step]:
    """The first tokens of a draft, one by one; all but the last window less one are settled."""
    steps: list[Step] = [begun()]
    for position in range(count):
        steps.append(delta([ids[position]], position, min(settled_count, position)))
    if count and settled_count:
        steps.append(delta([], count, settled_count))
    return steps


class FakeDrafter(drafter_pb2_grpc.DrafterServiceServicer):
    """Says `script` to every request; ungated ones get `ungated`. An Event in a script is waited
    for, an error raised."""

    def __init__(self) -> None:
        self.described = described()
        self.script: list[Step] = []
        self.ungated: list[Step] = []
        self.requests: list[Any] = []
        self.remembered: list[Any] = []
        self.describe_count = 0
        self.running_count = 0
        self.is_waiting = asyncio.Event()
        # Nobody is being answered.
        self.is_free = asyncio.Event()
        self.has_remembered = asyncio.Event()

    async def Describe(self, request: Any, context: Any) -> Any:
        self.describe_count += 1
        return self.described

    async def Answer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.running_count += 1
        self.is_free.clear()
        try:
            for step in self.ungated if request.is_ungated else self.script:
                if isinstance(step, asyncio.Event):
                    self.is_waiting.set()
                    await step.wait()
                elif isinstance(step, ShoalError):
                    raise step
                else:
                    yield step
        finally:
            self.running_count -= 1
            if not self.running_count:
                self.is_free.set()

    async def Remember(self, request: Any, context: Any) -> Any:
        self.remembered.append(request)
        self.has_remembered.set()
        return drafter_pb2.RememberResponse(is_kept=True)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    text: str


@dataclass
class House:
    """A gateway, its fleet, its drafter, and a client of it."""

    fleet: Any
    drafter: FakeDrafter
    drafter_server: RpcServer
    session: aiohttp.ClientSession
    tokens: ModelTokens = field(repr=False)
    counted: dict[str, float] = field(default_factory=dict, repr=False)

    async def reset(self) -> None:
        """Forget what earlier tests did."""
        vars(self.drafter).update(vars(FakeDrafter()))
        fresh_stage, fresh_router = FakeStage(), FakeRouter()
        fresh_router.stage_locator = self.fleet.router.stage_locator
        fresh_router.models = ["heavyweight", "drafter"]
        vars(self.fleet.stage).update(vars(fresh_stage))
        vars(self.fleet.router).update(vars(fresh_router))
        self.fleet.says("hello")
        self.counted = await self._metrics()

    def ids(self, text: str) -> list[int]:
        return self.tokens.encode(text)

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.fleet.url + path, json=body, headers=names) as reply:
            return Reply(reply.status, reply.headers, await reply.text())

    async def get(self, path: str) -> Reply:
        async with self.session.get(self.fleet.url + path) as reply:
            return Reply(reply.status, reply.headers, await reply.text())

    async def chat(self, path: str = "/v1/chat/completions", **fields: Any) -> Reply:
        return await self.post(path, CHAT | {"max_tokens": 40} | fields)

    async def metric(self, name: str, **labels: str) -> float:
        """Of the cascade, since the test began."""
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        key = f"{name}{{{wanted}}}" if labels else name
        return (await self._metrics()).get(key, 0.0) - self.counted.get(key, 0.0)

    async def _metrics(self) -> dict[str, float]:
        lines = (await self.get("/metrics")).text.splitlines()
        pairs = (line.rpartition(" ")[::2] for line in lines if not line.startswith("#"))
        return {name.removeprefix("shoal_gateway_cascade_"): float(value) for name, value in pairs}


@asynccontextmanager
async def running_house(
    data_dir: Path, tokens: ModelTokens, drafter: FakeDrafter | None = None, **settings: Any
) -> AsyncIterator[House]:
    drafter = drafter or FakeDrafter()
    server = RpcServer("127.0.0.1:0", drain_timeout_s=0.1)
    server.add(drafter_pb2_grpc.add_DrafterServiceServicer_to_server, drafter)
    address = await server.start()
    try:
        async with (
            running_fleet(data_dir, tokens, drafter_address=address, **settings) as fleet,
            aiohttp.ClientSession(headers=HEADERS) as session,
        ):
            fleet.router.models = ["heavyweight", "drafter"]
            yield House(fleet, drafter, server, session, tokens)
    finally:
        await server.stop()


@pytest.fixture
def start_house(tmp_path: Path, demo_tokens: ModelTokens) -> Any:
    return partial(running_house, tmp_path, demo_tokens)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_house(
    tmp_path_factory: pytest.TempPathFactory, demo_tokens: ModelTokens
) -> AsyncIterator[House]:
    async with running_house(
        tmp_path_factory.mktemp("house"), demo_tokens, rate_limit_rpm=0
    ) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="package")
async def house(shared_house: House) -> House:
    """One gateway for all tests; its fakes and what it has counted are as new."""
    await shared_house.reset()
    return shared_house


def chunks(reply: Reply) -> list[dict[str, Any]]:
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def streamed(reply: Reply) -> str:
    said = [chunk["choices"][0]["delta"] for chunk in chunks(reply) if chunk.get("choices")]
    return "".join(delta.get("content") or "" for delta in said)


def comments(reply: Reply) -> dict[str, str]:
    lines = [line[2:] for line in reply.text.splitlines() if line.startswith(": x-shoal")]
    return dict(line.split(": ", 1) for line in lines)


def whole(reply: Reply) -> tuple[str, dict[str, Any]]:
    assert reply.status == 200, reply.text
    body = json.loads(reply.text)
    return body["choices"][0]["message"]["content"], body["usage"]
