"""The entropy-drafter, behind a Protocol.

Every call has a deadline or dies with its connection; errors come out as ShoalError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from shoal.drafter.v1 import drafter_pb2, drafter_pb2_grpc
from shoal_common.driving import asking
from shoal_common.rpc import RpcChannel

_PEER = "the entropy-drafter"


class Drafter(Protocol):
    async def describe(self) -> drafter_pb2.DescribeResponse: ...

    def answer(
        self, request: drafter_pb2.AnswerRequest
    ) -> AsyncGenerator[drafter_pb2.AnswerResponse, None]:
        """Events of one draft; closing the iterator gives it up."""
        ...

    async def remember(self, request: drafter_pb2.RememberRequest) -> bool:
        """Whether the answer is kept."""
        ...

    async def forget(self, request: drafter_pb2.ForgetRequest) -> int:
        """How many answers are gone."""
        ...

    async def cache(self) -> drafter_pb2.GetCacheResponse: ...

    async def embed(self, request_id: str, texts: Sequence[str]) -> drafter_pb2.EmbedResponse: ...


class GrpcDrafter:
    """Drafter over gRPC. An answer has no deadline of ours: the drafter keeps its own."""

    def __init__(self, channel: RpcChannel, timeout_s: float) -> None:
        self._stub: Any = drafter_pb2_grpc.DrafterServiceStub(channel.channel)
        self._timeout_s = timeout_s

    async def describe(self) -> drafter_pb2.DescribeResponse:
        answer: drafter_pb2.DescribeResponse = await self._ask(
            self._stub.Describe, drafter_pb2.DescribeRequest()
        )
        return answer

    async def answer(
        self, request: drafter_pb2.AnswerRequest
    ) -> AsyncGenerator[drafter_pb2.AnswerResponse, None]:
        call = self._stub.Answer(request)
        try:
            while True:
                with asking(_PEER):
                    event = await call.read()
                if not isinstance(event, drafter_pb2.AnswerResponse):
                    return
                yield event
        finally:
            call.cancel()

    async def remember(self, request: drafter_pb2.RememberRequest) -> bool:
        return bool((await self._ask(self._stub.Remember, request)).is_kept)

    async def forget(self, request: drafter_pb2.ForgetRequest) -> int:
        return int((await self._ask(self._stub.Forget, request)).forgotten_count)

    async def cache(self) -> drafter_pb2.GetCacheResponse:
        answer: drafter_pb2.GetCacheResponse = await self._ask(
            self._stub.GetCache, drafter_pb2.GetCacheRequest()
        )
        return answer

    async def embed(self, request_id: str, texts: Sequence[str]) -> drafter_pb2.EmbedResponse:
        request = drafter_pb2.EmbedRequest(request_id=request_id, texts=texts)
        answer: drafter_pb2.EmbedResponse = await self._ask(self._stub.Embed, request)
        return answer

    async def _ask(self, method: Any, request: Any) -> Any:
        with asking(_PEER):
            return await method(request, timeout=self._timeout_s)
