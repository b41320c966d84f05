"""One reply as its ids arrive: characters, stop strings, logprobs, and their shape. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shoal.worker.v1 import stage_pb2
from shoal_common.tokens import ModelTokens, StopChecker
from shoal_gateway.shape import PlainShape, Shape
from shoal_gateway.task import Content, TextDelta, TokenLogprob


class Reply:
    """Everything delivered so far; survives the loss of a pipeline.

    Positions that were seen before are dropped, so a replayed attempt adds nothing twice.
    """

    def __init__(
        self,
        tokens: ModelTokens,
        stop: Sequence[str],
        wants_logprobs: bool,
        shape: Shape | None = None,
    ) -> None:
        self.ids: list[int] = []
        self._tokens = tokens
        self._detokenizer = tokens.detokenizer()
        self._stop = StopChecker(stop)
        self._shape = shape or PlainShape()
        self._wants_logprobs = wants_logprobs
        self._decoded_chars = 0
        self._sent_chars = 0
        self._reasoning_token_count = 0
        # Logprobs wait for their text: (characters decoded after the token, entry).
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def is_stopped(self) -> bool:
        """A stop string was found; nothing more is sent."""
        return self._stop.is_stopped

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._stop.found

    @property
    def has_calls(self) -> bool:
        """The model has called a tool."""
        return self._shape.has_calls

    @property
    def reasoning_token_count(self) -> int:
        """Tokens the model thought before it answered."""
        return self._reasoning_token_count

    def feed(self, delta: stage_pb2.TokensDelta) -> list[Content]:
        """Returns what may be sent now. `delta` must not leave a gap before it."""
        assert delta.first_position <= len(self.ids), "positions come in order"
        text = ""
        for token in delta.tokens[len(self.ids) - delta.first_position :]:
            self.ids.append(token.token_id)
            piece = self._detokenizer.feed([token.token_id])
            self._decoded_chars += len(piece)
            text += self._stop.feed(piece)
            is_text = token.token_id not in self._tokens.stop_token_ids
            if self._wants_logprobs and is_text:
                self._waiting.append((self._decoded_chars, self._entry(token)))
            self._reasoning_token_count += self._shape.is_reasoning
            if self.is_stopped:
                break
        return self._contents(text)

    def flush(self) -> list[Content]:
        """Returns what was held back, at the end of the ids."""
        text = ""
        if not self.is_stopped:
            rest = self._detokenizer.flush()
            self._decoded_chars += len(rest)
            text = self._stop.feed(rest)
        if not self.is_stopped:
            text += self._stop.flush()
        return [*self._contents(text), *self._shape.flush()]

    def _contents(self, text: str) -> list[Content]:
        self._sent_chars += len(text)
        ready = []
        while self._waiting and self._waiting[0][0] <= self._sent_chars:
            ready.append(self._waiting.popleft()[1])
        return self._shape.feed(TextDelta(text, tuple(ready))) if text or ready else []

    def _entry(self, token: stage_pb2.GeneratedToken) -> TokenLogprob:
        top = tuple(self._named(entry.token_id, entry.logprob) for entry in token.top)
        return self._named(token.token_id, token.logprob, top)

    def _named(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._tokens.token_bytes(token_id)
        return TokenLogprob(data.decode(errors="replace"), data, logprob, top)
