"""One reply as its ids arrive: characters, logprobs, and what they mean. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shoal.worker.v1 import stage_pb2
from shoal_common.tokens import ModelTokens
from shoal_gateway.shape import PLAIN, Reading
from shoal_gateway.task import (
    Content,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)


class Reply:
    """Everything delivered so far; survives the loss of a pipeline.

    Positions that were seen before are dropped, so a replayed attempt adds nothing twice.
    """

    def __init__(
        self,
        tokens: ModelTokens,
        stop: Sequence[str],
        wants_logprobs: bool,
        reading: Reading = PLAIN,
    ) -> None:
        self.ids: list[int] = []
        self._tokens = tokens
        self._detokenizer = tokens.detokenizer(reading.visible_tokens)
        self._shape = reading.shape(stop)
        self._wants_logprobs = wants_logprobs
        self._decoded_chars = 0
        self._given_chars = 0
        self._reasoning_token_count = 0
        # Logprobs wait for their text: (characters decoded after the token, entry).
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def is_stopped(self) -> bool:
        """A stop string was found, or enough calls were made; nothing more is sent."""
        return self._shape.is_over

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._shape.stop_string

    @property
    def has_calls(self) -> bool:
        """The model has called a tool."""
        return self._shape.has_calls

    @property
    def reasoning_token_count(self) -> int:
        """Tokens the model thought before it answered, the marks around them not counted."""
        return self._reasoning_token_count

    def feed(self, delta: stage_pb2.TokensDelta) -> list[Content]:
        """Returns what may be sent now. `delta` must not leave a gap before it."""
        assert delta.first_position <= len(self.ids), "positions come in order"
        contents: list[Content] = []
        for token in delta.tokens[len(self.ids) - delta.first_position :]:
            if self.is_stopped:
                break
            self.ids.append(token.token_id)
            piece = self._detokenizer.feed([token.token_id])
            self._decoded_chars += len(piece)
            is_text = token.token_id not in self._tokens.stop_token_ids
            if self._wants_logprobs and is_text:
                self._waiting.append((self._decoded_chars, self._entry(token)))
            was_reasoning = self._shape.is_reasoning
            contents += self._contents(piece)
            self._reasoning_token_count += was_reasoning and self._shape.is_reasoning and is_text
        return merged(contents)

    def flush(self) -> list[Content]:
        """Returns what was held back, at the end of the ids."""
        contents: list[Content] = []
        if not self.is_stopped:
            rest = self._detokenizer.flush()
            self._decoded_chars += len(rest)
            contents += self._contents(rest)
        return merged([*contents, *self._shape.flush()])

    def _contents(self, text: str) -> list[Content]:
        self._given_chars += len(text)
        ready = []
        while self._waiting and self._waiting[0][0] <= self._given_chars:
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


def merged(contents: Sequence[Content]) -> list[Content]:
    """The same contents in as few pieces as their order allows."""
    joined: list[Content] = []
    for content in contents:
        last = joined[-1] if joined else None
        if isinstance(last, TextDelta) and isinstance(content, TextDelta):
            joined[-1] = TextDelta(last.text + content.text, last.logprobs + content.logprobs)
        elif isinstance(last, ReasoningDelta) and isinstance(content, ReasoningDelta):
            joined[-1] = ReasoningDelta(last.text + content.text)
        elif (
            isinstance(last, ToolCallDelta)
            and isinstance(content, ToolCallDelta)
            and last.index == content.index
        ):
            joined[-1] = ToolCallDelta(last.index, last.arguments + content.arguments)
        else:
            joined.append(content)
    return joined
