"""A draft as it comes in: what has come, what of it has left, and what that says. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2
from shoal_gateway.cascade.errors import DraftBroken
from shoal_gateway.cascade.policy import Policy, Progress
from shoal_gateway.completion import reply_to
from shoal_gateway.prompt import Prepared
from shoal_gateway.reply import Reply
from shoal_gateway.task import Content, FinishReason, TextDelta

_REASONS: dict[stage_pb2.FinishReason, FinishReason] = {
    stage_pb2.FINISH_REASON_LENGTH: "length",
    stage_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


class Draft(Protocol):
    """The tokens of one draft, from the first on. Tokens that came twice count once."""

    released: int
    settled_count: int

    @property
    def token_count(self) -> int: ...

    @property
    def is_over(self) -> bool:
        """The reply ended with what has left: nothing more of it is wanted."""
        ...

    @property
    def stop_string(self) -> str | None: ...

    @property
    def reasoning_token_count(self) -> int:
        """Of the reply that has left."""
        ...

    def take(self, delta: drafter_pb2.DraftDelta) -> None:
        """Raises DraftBroken."""
        ...

    def release(self, policy: Policy, is_speculating: bool, is_accepted: bool) -> list[Content]:
        """What the tokens that may leave now say."""
        ...

    def flush(self) -> list[Content]:
        """What was held back of those that have left, at the end."""
        ...

    def reason(self, end: drafter_pb2.DraftEnd | None) -> FinishReason:
        """Why the reply ended. `end`: the drafter's word, if it came."""
        ...

    def visible_count(self, end: drafter_pb2.DraftEnd | None) -> int:
        """Tokens of the reply that has left."""
        ...


class Doubts:
    """The statistic over the last tokens, as the gate forms it."""

    def __init__(self, window_size: int, statistic: str) -> None:
        self._window: deque[float] = deque(maxlen=max(1, window_size))
        self._is_max = statistic == "max"

    def add(self, values: Sequence[float]) -> None:
        self._window.extend(values)

    @property
    def value(self) -> float | None:
        """None before the first token."""
        if not self._window:
            return None
        return max(self._window) if self._is_max else sum(self._window) / len(self._window)


class FleetDraft:
    """Token ids of a fleet model, read as any reply of it."""

    def __init__(self, prepared: Prepared) -> None:
        self.released = 0
        self.settled_count = 0
        self.reply = reply_to(prepared)
        self._stop_ids = frozenset(prepared.tokens.stop_token_ids)
        self._tokens: list[stage_pb2.GeneratedToken] = []
        self._judged_count = 0
        self._end_at: int | None = None
        # Reads ahead of what leaves, where the text may end before the tokens do.
        may_end_early = bool(prepared.task.stop) or prepared.reading.tool_format is not None
        self._ahead: Reply | None = reply_to(prepared) if may_end_early else None
        self._whole_at: int | None = None

    @property
    def token_count(self) -> int:
        return len(self._tokens)

    @property
    def left(self) -> Sequence[stage_pb2.GeneratedToken]:
        """The tokens that have left."""
        return self._tokens[: self.released]

    @property
    def is_over(self) -> bool:
        return self.reply.is_stopped

    @property
    def stop_string(self) -> str | None:
        return self.reply.stop_string

    @property
    def reasoning_token_count(self) -> int:
        return self.reply.reasoning_token_count

    def take(self, delta: drafter_pb2.DraftDelta) -> None:
        known = len(self._tokens)
        if delta.first_position > known:
            raise DraftBroken(f"position {delta.first_position} came after {known} tokens")
        if len(delta.tokens) < len(delta.entropy_bits):
            raise DraftBroken("tokens of a fleet draft came without their ids")
        self._judged_count = known
        for token in delta.tokens[known - delta.first_position :]:
            if token.token_id in self._stop_ids and self._end_at is None:
                self._end_at = len(self._tokens)
            self._tokens.append(token)
            self._look_ahead(token)
        self.settled_count = max(self.settled_count, min(delta.settled_count, len(self._tokens)))

    def release(self, policy: Policy, is_speculating: bool, is_accepted: bool) -> list[Content]:
        count = policy(
            Progress(
                token_count=len(self._tokens),
                judged_count=self._judged_count,
                settled_count=self.settled_count,
                whole_at=self._whole_at,
                end_at=self._end_at,
                released=self.released,
                is_speculating=is_speculating,
                is_accepted=is_accepted,
            )
        )
        assert count >= self.released, "no token is taken back"
        tokens, first = self._tokens[self.released : count], self.released
        self.released = count
        return self.reply.feed(stage_pb2.TokensDelta(first_position=first, tokens=tokens))

    def flush(self) -> list[Content]:
        return self.reply.flush()

    def reason(self, end: drafter_pb2.DraftEnd | None) -> FinishReason:
        is_length = end is not None and end.reason == stage_pb2.FINISH_REASON_LENGTH
        if is_length and not self.reply.is_stopped:
            return "length"
        return "tool_calls" if self.reply.has_calls else "stop"

    def visible_count(self, end: drafter_pb2.DraftEnd | None) -> int:
        return len(self.reply.ids)

    def _look_ahead(self, token: stage_pb2.GeneratedToken) -> None:
        if self._ahead is None or self._whole_at is not None:
            return
        position = len(self._ahead.ids)
        self._ahead.feed(stage_pb2.TokensDelta(first_position=position, tokens=[token]))
        if self._ahead.is_stopped:
            self._whole_at = len(self._tokens)


class UpstreamDraft:
    """Text of an upstream, which has minded stop strings itself."""

    is_over = False
    stop_string: str | None = None
    reasoning_token_count = 0

    def __init__(self) -> None:
        self.released = 0
        self.settled_count = 0
        self._token_count = 0
        self._judged_count = 0
        # Tokens that have come with each piece, and the piece.
        self._pieces: deque[tuple[int, str]] = deque()

    @property
    def token_count(self) -> int:
        return self._token_count

    def take(self, delta: drafter_pb2.DraftDelta) -> None:
        if delta.tokens:
            raise DraftBroken("an upstream's draft came as token ids")
        self._judged_count = self._token_count
        self._token_count += len(delta.entropy_bits)
        self.settled_count = max(self.settled_count, delta.settled_count)
        self._pieces.append((self._token_count, delta.text))

    def release(self, policy: Policy, is_speculating: bool, is_accepted: bool) -> list[Content]:
        progress = Progress(
            token_count=self._token_count,
            judged_count=self._judged_count,
            settled_count=self.settled_count,
            released=self.released,
            is_speculating=is_speculating,
            is_accepted=is_accepted,
        )
        self.released = policy(progress)
        text = ""
        # Text without tokens leaves with the end.
        while self._pieces and (is_accepted or self._pieces[0][0] <= self.released):
            text += self._pieces.popleft()[1]
        return [TextDelta(text)] if text else []

    def flush(self) -> list[Content]:
        return []

    def reason(self, end: drafter_pb2.DraftEnd | None) -> FinishReason:
        return "stop" if end is None else _REASONS.get(end.reason, "stop")

    def visible_count(self, end: drafter_pb2.DraftEnd | None) -> int:
        return self._token_count if end is None else end.completion_token_count
