"""`DrafterService` over gRPC: translation between messages and the domain, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from shoal.drafter.v1 import drafter_pb2 as pb
from shoal.drafter.v1 import drafter_pb2_grpc as pb_grpc
from shoal_common.errors import InvalidRequest
from shoal_entropy_drafter.answering import Answerer
from shoal_entropy_drafter.cache.base import AnswerCache
from shoal_entropy_drafter.embedder.base import Embedder
from shoal_entropy_drafter.errors import NobodyDrafts
from shoal_entropy_drafter.metrics import Recorder
from shoal_entropy_drafter.remembering import Memory

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DrafterRpc(pb_grpc.DrafterServiceServicer):
    """Answers every call of the contract. Errors leave as ShoalError."""

    def __init__(
        self,
        about: pb.DescribeResponse,
        about_cache: pb.GetCacheResponse,
        answerer: Answerer | None,
        memory: Memory,
        cache: AnswerCache,
        embedder: Embedder,
        recorder: Recorder,
    ) -> None:
        """about, about_cache: what does not change while the process lives. answerer: None where
        nobody drafts."""
        self._about = about
        self._about_cache = about_cache
        self._answerer = answerer
        self._memory = memory
        self._cache = cache
        self._embedder = embedder
        self._recorder = recorder

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeResponse:
        """With what it drafts and embeds."""
        with self._recorder.observed("Describe"):
            return self._about

    async def Answer(
        self, request: pb.AnswerRequest, context: _Context
    ) -> AsyncIterator[pb.AnswerResponse]:
        """A kept answer, or a draft with its verdicts."""
        last: pb.AnswerResponse | None = None
        with self._recorder.observed("Answer"):
            if self._answerer is None:
                raise NobodyDrafts
            async with aclosing(self._answerer.answer(request)) as responses:
                async for response in responses:
                    if _is_last(response):
                        last = response
                        break
                    yield response
        # Whoever has it hangs up, and has not given anything up.
        if last is not None:
            yield last

    async def Remember(self, request: pb.RememberRequest, context: _Context) -> pb.RememberResponse:
        """Keep an answer that stood."""
        with self._recorder.observed("Remember"):
            return pb.RememberResponse(is_kept=await self._memory.remember(request))

    async def Forget(self, request: pb.ForgetRequest, context: _Context) -> pb.ForgetResponse:
        """Let go of kept answers."""
        with self._recorder.observed("Forget"):
            return pb.ForgetResponse(forgotten_count=await self._memory.forget(request))

    async def GetCache(self, request: pb.GetCacheRequest, context: _Context) -> pb.GetCacheResponse:
        """What the cache holds and how it did."""
        with self._recorder.observed("GetCache"):
            response = pb.GetCacheResponse()
            response.CopyFrom(self._about_cache)
            if response.is_enabled:
                stats = await self._cache.stats()
                response.is_ready = stats.is_ready
                response.entry_count = stats.entry_count
                response.exact_hit_count = stats.exact_hit_count
                response.semantic_hit_count = stats.semantic_hit_count
                response.miss_count = stats.miss_count
                response.guarded_count = stats.guarded_count
                response.failure_count = stats.failure_count
            return response

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        """Vectors of texts."""
        with self._recorder.observed("Embed"):
            if not request.texts:
                raise InvalidRequest("there is no text to embed", param="input")
            done = await self._embedder.embed(request.texts)
            return pb.EmbedResponse(
                embeddings=[pb.Embedding(values=row) for row in done.vectors.tolist()],
                token_count=done.token_count,
                model=self._embedder.model,
            )


def _is_last(response: pb.AnswerResponse) -> bool:
    verdicts = (pb.VERDICT_ESCALATE, pb.VERDICT_ACCEPT)
    is_verdict = response.judgement.verdict in verdicts and not response.judgement.is_late
    return response.HasField("cache_hit") or is_verdict
