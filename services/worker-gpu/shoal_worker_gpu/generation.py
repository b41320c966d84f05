"""One generation at the head of a pipeline, and what its driver reads.

Owns the ids of a sequence, how many of them are computed, and the order of its events. Decides
when it is finished. Does not know stages or KV blocks.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shoal.worker.v1 import stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import DeadlineExceeded, ShoalError
from shoal_common.ids import SequenceId
from shoal_common.prefix import PrefixKeys
from shoal_worker_gpu.pipeline_name import PipelineName, pipeline_name
from shoal_worker_gpu.scheduler import Candidate
from shoal_worker_gpu.sequence import SequenceKey
from shoal_worker_gpu.step_times import TimeSums

log = logging.getLogger(__name__)


ALIVE = stage_pb2.GenerateResponse(alive=stage_pb2.Alive())


class Phase(enum.Enum):
    WAITING = "waiting"
    ATTACHING = "attaching"
    RUNNING = "running"
    ENDED = "ended"


@dataclass
class Generation:
    """A request from its arrival to its last token.

    ids: prompt, then what was generated; positions [0, computed) are in KV. room: positions for
    which every stage holds blocks. keys: finds its prefixes again, None without a prefix cache.
    cached_count: prompt tokens that the first attempt did not compute. may_reuse: it may start
    behind what the stages remember. times: of its steps so far. Invariant: computed + in-flight
    tokens <= len(ids).
    """

    sequence: SequenceId
    attempt: int
    request: stage_pb2.GenerateRequest
    ids: list[int]
    prompt_count: int
    first_new: int
    max_tokens: int
    stop_ids: frozenset[int]
    arrived_at: float
    deadline_at: float | None
    keys: PrefixKeys | None = None
    may_reuse: bool = True
    cached_count: int = 0
    phase: Phase = Phase.WAITING
    computed: int = 0
    room: int = 0
    is_in_flight: bool = False
    is_growing: bool = False
    near_ties: int = 0
    times: TimeSums = field(default_factory=TimeSums)
    events: asyncio.Queue[stage_pb2.GenerateResponse | ShoalError] = field(
        default_factory=asyncio.Queue
    )

    @property
    def key(self) -> SequenceKey:
        return SequenceKey(self.sequence, self.attempt)

    @cached_property
    def pipeline(self) -> PipelineName:
        """What its request's pipeline is called: asked for at every step."""
        return pipeline_name(self.request.pipeline)

    @property
    def generated_count(self) -> int:
        """Tokens behind the prompt, those of earlier attempts included."""
        return len(self.ids) - self.prompt_count

    @property
    def is_decoding(self) -> bool:
        return self.as_candidate().is_decoding

    def as_candidate(self) -> Candidate:
        return Candidate(
            sequence=self.sequence,
            computed=self.computed,
            pending=len(self.ids) - self.computed,
            room=self.room - self.computed,
            is_in_flight=self.is_in_flight,
        )

    def block_keys(self, token_count: int) -> list[bytes]:
        """Keys of the complete blocks of the first `token_count` ids."""
        return self.keys.of(self.ids[:token_count]) if self.keys is not None else []

    def admitted(self, now: float, room: int, cached_count: int) -> None:
        """Every stage holds `room` positions, the first `cached_count` of them filled."""
        self.phase = Phase.RUNNING
        self.room = room
        self.computed = cached_count
        self.cached_count = self.cached_count or min(cached_count, self.prompt_count)
        admitted = stage_pb2.Admitted(
            queued_ms=int((now - self.arrived_at) * 1000), cached_token_count=self.cached_count
        )
        self.events.put_nowait(stage_pb2.GenerateResponse(admitted=admitted))
        log.debug(
            "prefix looked up",
            extra={
                "diag": "prefix",
                "request_id": self.request.request_id,
                "matched_tokens": cached_count,
                "total_tokens": len(self.ids),
                "queued_ms": admitted.queued_ms,
            },
        )

    def put_back(self) -> None:
        """Forget what is computed; the ids stay, so that a replay goes on behind them."""
        self.phase = Phase.WAITING
        self.attempt += 1
        self.computed = 0
        self.room = 0
        self.is_in_flight = False
        self.is_growing = False

    def accept(self, row: stage_pb2.RowResult) -> None:
        """Take a step's result; appends the token, if one was drawn, and may end."""
        self.is_in_flight = False
        self.computed = row.position + 1
        if not row.HasField("token"):
            return
        position = self.generated_count
        self.ids.append(row.token.token_id)
        self.near_ties += row.near_tie
        delta = stage_pb2.TokensDelta(first_position=position, tokens=[row.token])
        self.events.put_nowait(stage_pb2.GenerateResponse(tokens=delta))
        reason = self._finish_reason(row.token.token_id)
        if reason is not None:
            self._finish(reason)

    async def next_event(self, clock: Clock) -> stage_pb2.GenerateResponse | ShoalError:
        """What the driver hears next; that the head is alive, when there is nothing else."""
        if not self.events.empty():
            return self.events.get_nowait()
        wait_s = _interval_s(self.request.keep_alive_ms) or math.inf
        left_s = math.inf
        if self.deadline_at is not None:
            left_s = max(0.0, self.deadline_at - clock.monotonic())
        try:
            async with asyncio.timeout(None if wait_s == left_s else min(wait_s, left_s)):
                return await self.events.get()
        except TimeoutError:
            if wait_s < left_s:
                return ALIVE
            return DeadlineExceeded(
                f"the request's time was up after {self.generated_count} tokens"
            )

    def end_if_complete(self) -> bool:
        """End at once what an earlier attempt has brought to its end, the word for it excepted."""
        if self.generated_count == 0:
            return False
        reason = self._finish_reason(self.ids[-1])
        if reason is not None:
            self._finish(reason)
        return reason is not None

    def fail(self, error: ShoalError) -> None:
        """End with an error. Nothing follows it."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ENDED
            self.events.put_nowait(error)

    def _finish_reason(self, token_id: int) -> stage_pb2.FinishReason | None:
        if token_id in self.stop_ids:
            return stage_pb2.FINISH_REASON_STOP
        if self.generated_count >= self.max_tokens:
            return stage_pb2.FINISH_REASON_LENGTH
        return None

    def _finish(self, reason: stage_pb2.FinishReason) -> None:
        self.phase = Phase.ENDED
        finished = stage_pb2.Finished(
            reason=reason,
            prompt_token_count=self.prompt_count,
            generated_token_count=self.generated_count,
            cached_token_count=self.cached_count,
            near_tie_count=self.near_ties,
            timings=self.times.timings(),
            step_count=self.times.step_count,
        )
        self.events.put_nowait(stage_pb2.GenerateResponse(finished=finished))


async def has_ended(work: asyncio.Task[Any], keep_alive_ms: int) -> bool:
    """Wait for work that comes before a generation; False when it is time for a sign of life."""
    await asyncio.wait({work}, timeout=_interval_s(keep_alive_ms))
    return work.done()


def _interval_s(keep_alive_ms: int) -> float | None:
    return keep_alive_ms / 1000 if keep_alive_ms else None


def youngest(generations: Sequence[Generation]) -> Generation | None:
    """The one that arrived last: it has the least to lose."""
    return max(generations, key=lambda g: g.arrived_at, default=None)
