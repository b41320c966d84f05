"""The answers of OpenAI's older completions as JSON objects and as a stream. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import ShoalError
from shoal_gateway.collect import Collected
from shoal_gateway.dialects import sse
from shoal_gateway.dialects.openai_render import ChatEnvelope, error_object, usage_of
from shoal_gateway.task import Admitted, Event, Finished, TextDelta, TokenLogprob, Usage

KIND = "text_completion"


@dataclass(frozen=True)
class CompletionEnvelope:
    """What all parts of one answer share.

    prompts: what is said again before each answer, "" for nothing; one for each prompt, and every
    `per_prompt` choices belong to one.
    """

    base: ChatEnvelope
    prompts: tuple[str, ...]
    per_prompt: int

    @property
    def choice_count(self) -> int:
        return len(self.prompts) * self.per_prompt

    def prefix(self, index: int) -> str:
        """What choice `index` begins with."""
        return self.prompts[index // self.per_prompt]

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """The body for clients that do not stream."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        usage = self.usage([answer.finished.usage for answer in answers])
        return self.base.wrap(KIND, choices) | {"usage": usage}

    def usage(self, usages: Sequence[Usage]) -> dict[str, Any]:
        """Of all choices, in their order: a prompt counts once, however often it was answered."""
        firsts = usages[:: self.per_prompt]
        total = Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in firsts),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        )
        return usage_of([total])

    def _choice(self, index: int, answer: Collected) -> dict[str, Any]:
        logprobs = None
        if self.base.wants_logprobs:
            logprobs = LegacyLogprobs().table(answer.logprobs)
        text = self.prefix(index) + answer.text
        return choice_object(index, text, logprobs, _reason(answer.finished))


class CompletionStream:
    """The chunks of all choices."""

    def __init__(self, envelope: CompletionEnvelope, wants_usage: bool) -> None:
        self._envelope = envelope
        self._wants_usage = wants_usage
        self._begun: set[int] = set()
        self._logprobs = [LegacyLogprobs() for _ in range(envelope.choice_count)]
        self._usages: dict[int, Usage] = {}

    def feed(self, item: tuple[int, Event]) -> bytes:
        index, event = item
        match event:
            case Admitted():
                return self._begin(index)
            case TextDelta():
                logprobs = None
                if self._envelope.base.wants_logprobs:
                    logprobs = self._logprobs[index].table(event.logprobs)
                return self._begin(index) + self._chunk(index, event.text, logprobs)
            case Finished():
                return self._begin(index) + self._finish(index, event)
            case _:
                return b""

    def keep_alive(self) -> bytes:
        return sse.KEEP_ALIVE

    def failure(self, error: ShoalError) -> bytes:
        return sse.data_event(error_object(error))

    def _begin(self, index: int) -> bytes:
        prefix = self._envelope.prefix(index)
        if index in self._begun or not prefix:
            return b""
        self._begun.add(index)
        return self._chunk(index, prefix)

    def _finish(self, index: int, finished: Finished) -> bytes:
        self._usages[index] = finished.usage
        data = self._chunk(index, "", reason=_reason(finished))
        if len(self._usages) < self._envelope.choice_count:
            return data
        if self._wants_usage:
            usages = [self._usages[index] for index in sorted(self._usages)]
            last = self._envelope.base.wrap(KIND, []) | {"usage": self._envelope.usage(usages)}
            data += sse.data_event(last)
        return data + sse.DONE

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        choice = choice_object(index, text, logprobs, reason)
        chunk = self._envelope.base.wrap(KIND, [choice])
        if self._wants_usage:
            chunk["usage"] = None
        return sse.data_event(chunk)


class LegacyLogprobs:
    """The older table of logprobs for one choice; knows how far into its text it is."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset_chars = 0

    def table(self, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
        """Columns for the next tokens."""
        table: dict[str, Any] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for entry in entries:
            table["tokens"].append(_token(entry))
            table["token_logprobs"].append(entry.logprob)
            table["top_logprobs"].append({_token(top): top.logprob for top in entry.top})
            table["text_offset"].append(self._offset_chars)
            self._offset_chars += len(self._decoder.decode(entry.data))
        return table


def choice_object(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def _token(entry: TokenLogprob) -> str:
    """The token's text, or its bytes where they are no whole characters."""
    try:
        return entry.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.data)


def _reason(finished: Finished) -> str:
    """Nothing is called without a template, so a call is an end like any other."""
    return "stop" if finished.reason == "tool_calls" else finished.reason
