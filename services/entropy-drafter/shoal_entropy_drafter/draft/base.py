"""What every source of drafts keeps to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from shoal.drafter.v1 import drafter_pb2
from shoal.router.v1 import router_pb2
from shoal.worker.v1 import stage_pb2
from shoal_entropy_drafter.entropy import Entropy


@dataclass(frozen=True)
class DraftBegun:
    """The head has taken a fleet draft in; upstream drafts have no such moment."""

    plan: router_pb2.Plan
    admitted: stage_pb2.Admitted


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One token: an id with its candidates from the fleet, text from an upstream.

    text: "" of a fleet's token, and of one whose characters come with a later token.
    """

    text: str
    token: stage_pb2.GeneratedToken | None
    entropy: Entropy


@dataclass(frozen=True)
class DraftTokens:
    """The next tokens, in order, at least one."""

    tokens: Sequence[DraftToken]


@dataclass(frozen=True)
class DraftEnded:
    """The draft has ended by itself; completion_token_count: None where the source does not say."""

    reason: stage_pb2.FinishReason
    prompt_token_count: int = 0
    completion_token_count: int | None = None
    cached_token_count: int = 0
    timings: Sequence[stage_pb2.StageTiming] = ()


DraftEvent: TypeAlias = DraftBegun | DraftTokens | DraftEnded


class DraftSource(Protocol):
    """Writes drafts, any number at once."""

    @property
    def kind(self) -> drafter_pb2.DrafterKind:
        """What it is, in the words of the contract."""

    def check(self, request: drafter_pb2.AnswerRequest) -> None:
        """Raise InvalidRequest where the request lacks what this source needs."""

    def draft(
        self, request: drafter_pb2.AnswerRequest, remaining_s: float
    ) -> AsyncGenerator[DraftEvent, None]:
        """One draft of a request that passed `check`; ends after DraftEnded.

        remaining_s: when the caller will give it up; passed on, not kept here. Closing the iterator
        frees everything it holds. Raises DraftFailed, and nothing else, where the draft cannot be
        had or is lost: it is not tried again.
        """

    async def close(self) -> None:
        """End it; drafts under way fail."""
