"""The heavyweight beside a draft: opened, started, cancelled, or taken over.

Owns the task that reads its stream ahead, and the bound on what it reads. Does not know when it is
wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from shoal.worker.v1 import stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError, Unavailable, UnknownModel
from shoal_gateway.answers import Answer
from shoal_gateway.cascade.errors import HeavyweightMissing, HeavyweightSilent
from shoal_gateway.completion import reply_to
from shoal_gateway.local import LocalAnswer
from shoal_gateway.providers.errors import ProviderKeyMissing
from shoal_gateway.task import (
    Admitted,
    Event,
    Finished,
    Queued,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

# Events that are read ahead of a draft that is still being judged; then its stream waits.
_AHEAD_MAX = 256

Open = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True)
class Standby:
    """The heavyweight of one request. `answer` is None where it was not to be had when the request
    came; it is asked for again when it is needed."""

    model: str
    open: Open
    answer: Answer | None

    @classmethod
    async def opened(cls, model: str, open: Open) -> Standby:
        """Raises InvalidRequest for what the caller must change, and nothing else."""
        try:
            return cls(model, open, await open())
        except (UnknownModel, ProviderKeyMissing):
            return cls(model, open, None)
        except InvalidRequest:
            raise
        except ShoalError:
            return cls(model, open, None)

    @property
    def local(self) -> LocalAnswer | None:
        """Where the fleet answers, so that it can go on behind token ids."""
        return self.answer if isinstance(self.answer, LocalAnswer) else None

    def again(self, request_id: str, seed: int | None) -> Standby:
        """For another choice."""
        answer = self.answer

        async def drawn() -> Answer:
            return (await self.open()).again(request_id, seed)

        return Standby(self.model, drawn, answer and answer.again(request_id, seed))

    async def events(
        self, left: Sequence[stage_pb2.GeneratedToken] = (), number: int = 1
    ) -> AsyncGenerator[Event, None]:
        """An answer in whole, or what comes behind the tokens that have left.

        number: of this run. One that was cancelled may still be on its way out of a head, which
        must not take the next one for it.
        """
        answer = self.answer or await self._opened_late()
        if isinstance(answer, LocalAnswer) and number > 1:
            request_id = f"{answer.prepared.request_id}-{number}"
            answer = replace(answer, prepared=replace(answer.prepared, request_id=request_id))
        if left:
            assert isinstance(answer, LocalAnswer), "only ids can be gone on behind"
            reply = reply_to(answer.prepared)
            # What they say is out already.
            reply.feed(stage_pb2.TokensDelta(tokens=left))
            source = answer.events_behind(reply)
        else:
            source = answer.events()
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _opened_late(self) -> Answer:
        try:
            return await self.open()
        except (UnknownModel, ProviderKeyMissing) as err:
            raise HeavyweightMissing(self.model) from err


class HeavyRun:
    """One stream of the heavyweight, read by a task of its own from the start on.

    `cancel` it or read `events` to their end; either way nothing of it is left.
    """

    def __init__(
        self, standby: Standby, prefix: Sequence[stage_pb2.GeneratedToken], number: int = 1
    ) -> None:
        self.prefix_count = len(prefix)
        self._number = number
        self._standby = standby
        self._prefix = tuple(prefix)
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_AHEAD_MAX)
        self._task: asyncio.Task[None] | None = None
        self._prompt_tokens = 0
        self._piece_count = 0
        self._usage: Usage | None = None
        self.started_at = 0.0

    def start(self, clock: Clock, timeout_s: float) -> None:
        """timeout_s: how long it may be silent."""
        assert self._task is None, "a run starts once"
        self.started_at = clock.monotonic()
        self._task = asyncio.create_task(self._pump(timeout_s))

    @property
    def spent(self) -> Usage:
        """What it has computed by now; without a last word of it, each piece counts as a token."""
        if self._usage is None:
            return Usage(self._prompt_tokens, self._piece_count)
        own = max(0, self._usage.completion_tokens - self.prefix_count)
        return Usage(self._usage.prompt_tokens, own)

    async def cancel(self) -> None:
        """Close the stream: a fleet frees its KV, an upstream loses the connection. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Its events from the first one on. Raises what went wrong with it, at its place."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def _pump(self, timeout_s: float) -> None:
        async with aclosing(self._standby.events(self._prefix, self._number)) as events:
            try:
                while (event := await self._next(events, timeout_s)) is not None:
                    self._note(event)
                    await self._queue.put(event)
            # Whatever it is, the reader raises it.
            except Exception as err:
                await self._queue.put(err)
            else:
                await self._queue.put(None)

    async def _next(self, events: AsyncGenerator[Event, None], timeout_s: float) -> Event | None:
        try:
            async with asyncio.timeout(timeout_s) as bound:
                return await anext(events, None)
        except TimeoutError as err:
            if not bound.expired():
                raise Unavailable("the heavyweight's stream broke; try again") from err
            raise HeavyweightSilent(self._standby.model, timeout_s) from err

    def _note(self, event: Event) -> None:
        match event:
            case Admitted():
                self._prompt_tokens = event.prompt_tokens or self._prompt_tokens
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                self._piece_count += 1
            case Finished():
                self._usage = event.usage


def is_sign(event: Event) -> bool:
    """Shows that the answer has begun to be written."""
    return not isinstance(event, Queued | Admitted)
