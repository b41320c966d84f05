"""Chunks of a chat completion's stream as tokens with their candidates.

Owns what broken and partial chunks are worth: text of which no candidates are shown counts as
tokens of which nothing is known. Does not know HTTP, nor where the chunks come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.worker.v1 import stage_pb2
from shoal_entropy_drafter.draft.base import DraftEnded, DraftToken, DraftTokens
from shoal_entropy_drafter.entropy import Entropy, entropy_of, unknown
from shoal_entropy_drafter.errors import DraftFailed

_REASONS = {
    "stop": stage_pb2.FINISH_REASON_STOP,
    "length": stage_pb2.FINISH_REASON_LENGTH,
}
_CALLS = ("tool_calls", "function_call")


class ChunkReader:
    """One stream, chunk by chunk.

    Bytes of text and bytes of the tokens shown are counted against each other over the whole
    stream: a character may come later than the tokens it is made of, never before them.
    """

    def __init__(self, candidate_count: int) -> None:
        self._candidate_count = candidate_count
        self._unknown = unknown(candidate_count)
        self._shown_bytes = 0
        self._said_bytes = 0
        self._reason: stage_pb2.FinishReason | None = None
        self._usage: Any = None

    def take(self, chunk: Any) -> DraftTokens | None:
        """The tokens of a chunk, None where it has none. Raises DraftFailed."""
        try:
            return self._taken(chunk)
        except (AttributeError, TypeError) as err:
            raise DraftFailed("the upstream's stream is not that of a chat completion") from err

    def ended(self) -> DraftEnded:
        """What stands at the end of the stream. Raises DraftFailed where it was cut off."""
        if self._reason is None:
            raise DraftFailed("the upstream's stream ended without a finish")
        details = getattr(self._usage, "prompt_tokens_details", None)
        return DraftEnded(
            self._reason,
            _count(getattr(self._usage, "prompt_tokens", None)) or 0,
            _count(getattr(self._usage, "completion_tokens", None)),
            _count(getattr(details, "cached_tokens", None)) or 0,
        )

    def _taken(self, chunk: Any) -> DraftTokens | None:
        if chunk.usage is not None:
            self._usage = chunk.usage
        # The chunk with the usage has no choices; some upstreams begin with one like that.
        choice = next((c for c in chunk.choices or () if not c.index), None)
        if choice is None:
            return None
        delta = choice.delta
        if delta is not None:
            if delta.tool_calls or delta.function_call:
                raise DraftFailed("the draft calls a tool", verdict_reason="tool_call")
            if delta.refusal:
                raise DraftFailed("the upstream refused to answer")
        entries = (choice.logprobs and choice.logprobs.content) or ()
        tokens = self._tokens((delta and delta.content) or "", entries)
        if choice.finish_reason is not None:
            self._finish(choice.finish_reason)
        return DraftTokens(tokens) if tokens else None

    def _finish(self, reason: str) -> None:
        if reason in _CALLS:
            raise DraftFailed("the draft calls a tool", verdict_reason="tool_call")
        known = _REASONS.get(reason)
        if known is None:
            raise DraftFailed("the upstream held its answer back")
        self._reason = known

    def _tokens(self, text: str, entries: Sequence[Any]) -> list[DraftToken]:
        shown = [_text_of(entry) for entry in entries]
        self._said_bytes += len(text.encode())
        self._shown_bytes += sum(map(_byte_count, entries))
        texts = shown
        if "".join(shown) != text:
            # Nobody can tell which token says what, so the text counts as said with the last one.
            texts = ["" for _ in shown[1:]] + [text] if shown else []
        tokens = [
            DraftToken(said, None, self._entropy(entry))
            for said, entry in zip(texts, entries, strict=True)
        ]
        if self._said_bytes > self._shown_bytes:
            self._shown_bytes = self._said_bytes
            tokens.append(DraftToken("" if shown else text, None, self._unknown))
        return tokens

    def _entropy(self, entry: Any) -> Entropy:
        try:
            logprobs = [float(candidate.logprob) for candidate in entry.top_logprobs or ()]
        except (AttributeError, TypeError, ValueError):
            return self._unknown
        return entropy_of(logprobs, self._candidate_count)


def _text_of(entry: Any) -> str:
    return entry.token if isinstance(entry.token, str) else ""


def _byte_count(entry: Any) -> int:
    """Bytes of a token; one that is part of a character tells them, or stands as a mark."""
    data = getattr(entry, "bytes", None)
    return len(data) if isinstance(data, list) else len(_text_of(entry).encode())


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
