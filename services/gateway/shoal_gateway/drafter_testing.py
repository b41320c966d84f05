"""An entropy-drafter on this machine that says what a test puts into its mouth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from shoal.drafter.v1 import drafter_pb2, drafter_pb2_grpc
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcServer

DIMENSIONS = 4


def vector_of(text: str) -> list[float]:
    """What the fake embeds a text to: halves and quarters, which float32 holds exactly."""
    return [len(text) / 4, ord(text[0]) / 2, -0.25, 1.0]


@dataclass
class FakeDrafterService(drafter_pb2_grpc.DrafterServiceServicer):
    """described: what it says of itself. events: of every Answer. error: raised by every call.

    answer_requests, embed_requests, forget_requests: what it was asked.
    """

    described: drafter_pb2.DescribeResponse = field(
        default_factory=lambda: drafter_pb2.DescribeResponse(
            incarnation="i1",
            kind=drafter_pb2.DRAFTER_KIND_NONE,
            embedding_model="all-MiniLM-L6-v2",
            embedding_dimensions=DIMENSIONS,
            embeds_itself=True,
        )
    )
    events: Sequence[drafter_pb2.AnswerResponse] = ()
    cache: drafter_pb2.GetCacheResponse = field(default_factory=drafter_pb2.GetCacheResponse)
    forgotten_count: int = 0
    error: ShoalError | None = None
    describe_count: int = 0
    answer_requests: list[drafter_pb2.AnswerRequest] = field(default_factory=list)
    embed_requests: list[drafter_pb2.EmbedRequest] = field(default_factory=list)
    forget_requests: list[drafter_pb2.ForgetRequest] = field(default_factory=list)

    async def Describe(self, request: Any, context: Any) -> drafter_pb2.DescribeResponse:
        self.describe_count += 1
        self._fail()
        return self.described

    async def Answer(
        self, request: drafter_pb2.AnswerRequest, context: Any
    ) -> AsyncIterator[drafter_pb2.AnswerResponse]:
        self.answer_requests.append(request)
        self._fail()
        for event in self.events:
            yield event

    async def GetCache(self, request: Any, context: Any) -> drafter_pb2.GetCacheResponse:
        self._fail()
        return self.cache

    async def Forget(
        self, request: drafter_pb2.ForgetRequest, context: Any
    ) -> drafter_pb2.ForgetResponse:
        self.forget_requests.append(request)
        self._fail()
        return drafter_pb2.ForgetResponse(forgotten_count=self.forgotten_count)

    async def Embed(
        self, request: drafter_pb2.EmbedRequest, context: Any
    ) -> drafter_pb2.EmbedResponse:
        """As many tokens as characters."""
        self.embed_requests.append(request)
        self._fail()
        return drafter_pb2.EmbedResponse(
            embeddings=[drafter_pb2.Embedding(values=vector_of(text)) for text in request.texts],
            token_count=sum(map(len, request.texts)),
            model=self.described.embedding_model,
        )

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class RunningDrafter:
    """The fake, and where it listens until its `server` stops."""

    service: FakeDrafterService
    server: RpcServer
    address: str


@asynccontextmanager
async def fake_drafter() -> AsyncIterator[RunningDrafter]:
    """A fake behind real gRPC on a free port."""
    service, server = FakeDrafterService(), RpcServer("127.0.0.1:0", drain_timeout_s=0.1)
    server.add(drafter_pb2_grpc.add_DrafterServiceServicer_to_server, service)
    try:
        yield RunningDrafter(service, server, await server.start())
    finally:
        await server.stop()
