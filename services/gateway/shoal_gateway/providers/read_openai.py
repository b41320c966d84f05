"""The answer of an OpenAI-type provider to events. Pure.

Providers differ in small things, all of which are met here: indexes of calls that are missing or
always 0, arguments as an object, thoughts under three names, usage in three places, no `[DONE]`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from shoal_common.errors import ShoalError
from shoal_gateway.providers.errors import ProviderAnswerBroken, ProviderFault, from_status
from shoal_gateway.providers.estimate import prompt_tokens, tokens_of_chars
from shoal_gateway.providers.event_lines import ServerEvent
from shoal_gateway.providers.values import count, error_text, items, obj, text
from shoal_gateway.task import (
    Admitted,
    ChatTask,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


@dataclass
class _Call:
    """A call as far as it has come; `index` is None until its name is known."""

    call_id: str
    name: str = ""
    waiting: str = ""
    index: int | None = None


class OpenAiAnswer:
    """Reads one answer, streamed or whole."""

    def __init__(self, provider: str, task: ChatTask) -> None:
        self._provider = provider
        self._task = task
        self._has_begun = False
        self._calls: dict[object, _Call] = {}
        self._call_count = 0
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._char_count = 0
        self.is_done = False

    def feed(self, event: ServerEvent) -> list[Event]:
        """Raises ProviderFailed."""
        if event.data.strip() == b"[DONE]":
            self.is_done = True
            return []
        return self.object(parsed(self._provider, event.data))

    def object(self, chunk: dict[str, Any]) -> list[Event]:
        """One chunk, or a whole answer."""
        if chunk.get("error"):
            raise error_of(self._provider, chunk)
        events: list[Event] = []
        if not self._has_begun:
            self._has_begun = True
            events.append(Admitted())
        self._read_usage(chunk)
        for choice in items(chunk.get("choices"))[:1]:
            events += self._choice(obj(choice))
        return events

    def finish(self) -> list[Event]:
        """At the end of the stream. Raises ProviderAnswerBroken if the answer is not whole."""
        if self._reason is None:
            raise ProviderAnswerBroken(self._provider, "ended before it was finished")
        events = list(self._name_the_rest())
        if self._reason == "error":
            raise ProviderFault(self._provider, 0)
        reason = _REASONS.get(self._reason, "stop")
        if reason == "stop" and self._call_count:
            reason = "tool_calls"
        return [*events, Finished(reason, self._whole_usage())]

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta = obj(choice.get("delta")) or obj(choice.get("message"))
        thoughts = text(delta.get("reasoning_content")) or text(delta.get("reasoning"))
        said, more_thoughts = _content(delta.get("content"))
        if thoughts := thoughts + more_thoughts:
            self._char_count += len(thoughts)
            yield ReasoningDelta(thoughts)
        said += text(delta.get("refusal"))
        logprobs = _logprobs(choice.get("logprobs")) if self._task.logprobs else ()
        if said or logprobs:
            self._char_count += len(said)
            yield TextDelta(said, logprobs)
        for position, part in enumerate(items(delta.get("tool_calls"))):
            yield from self._call_part(obj(part), position)
        self._reason = text(choice.get("finish_reason")) or self._reason

    def _call_part(self, part: dict[str, Any], position: int) -> Iterator[Event]:
        function = obj(part.get("function"))
        call = self._call_of(part, position)
        call.name = call.name or text(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        call.waiting += text(arguments)
        if call.name:
            yield from self._say(call)

    def _call_of(self, part: dict[str, Any], position: int) -> _Call:
        call_id = text(part.get("id"))
        index = part.get("index")
        key: object = index if isinstance(index, int) else call_id or ("at", position)
        known = self._calls.get(key)
        if known is None or (call_id and known.call_id and call_id != known.call_id):
            known = self._calls[key] = _Call(call_id)
        known.call_id = known.call_id or call_id
        return known

    def _say(self, call: _Call) -> Iterator[Event]:
        if call.index is None:
            call.index = self._call_count
            self._call_count += 1
            call.call_id = call.call_id or f"call_{uuid.uuid4().hex[:24]}"
            yield ToolCallStarted(call.index, call.call_id, call.name)
        if call.waiting:
            self._char_count += len(call.waiting)
            yield ToolCallDelta(call.index, call.waiting)
            call.waiting = ""

    def _name_the_rest(self) -> Iterator[Event]:
        """Calls that never got a name are shown all the same, as text."""
        for call in self._calls.values():
            if call.index is None and call.waiting:
                yield TextDelta(call.waiting)

    def _read_usage(self, chunk: dict[str, Any]) -> None:
        first = obj(next(iter(items(chunk.get("choices"))), None))
        for place in (chunk, first, obj(chunk.get("x_groq"))):
            if found := obj(place.get("usage")):
                self._usage = found

    def _whole_usage(self) -> Usage:
        if not self._usage:
            return Usage(prompt_tokens(self._task), tokens_of_chars(self._char_count))
        return usage_of(self._usage)


def usage_of(usage: dict[str, Any]) -> Usage:
    """From OpenAI's usage object and its relatives."""
    cached = (
        count(obj(usage.get("prompt_tokens_details")).get("cached_tokens"))
        or count(usage.get("prompt_cache_hit_tokens"))
        or count(usage.get("cached_tokens"))
    )
    reasoning = obj(usage.get("completion_tokens_details")).get("reasoning_tokens")
    return Usage(
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        cached_tokens=cached,
        reasoning_tokens=count(reasoning),
    )


def parsed(provider: str, data: bytes) -> dict[str, Any]:
    """One JSON object. Raises ProviderAnswerBroken."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as err:
        raise ProviderAnswerBroken(provider, "is not JSON") from err
    if not isinstance(value, dict):
        raise ProviderAnswerBroken(provider, "is not a JSON object")
    return value


def error_of(provider: str, body: dict[str, Any]) -> ShoalError:
    """The error that stands in the midst of a stream."""
    code = obj(body.get("error")).get("code") or body.get("status")
    status = int(str(code)) if re.fullmatch("[45][0-9][0-9]", str(code)) else 0
    message = error_text(body)
    if status:
        return from_status(provider, status, None, message)
    if text(obj(body.get("error")).get("type")) in ("rate_limit_error", "rate_limit_exceeded"):
        return from_status(provider, 429, None, message)
    return ProviderFault(provider, 0, message)


def _content(value: Any) -> tuple[str, str]:
    """What is said and what is thought; Mistral sends both as a list of parts."""
    if not isinstance(value, list):
        return text(value), ""
    said = thought = ""
    for entry in value:
        part = obj(entry)
        if part.get("type") == "thinking":
            inner = part.get("thinking")
            thought += text(inner) or "".join(text(obj(i).get("text")) for i in items(inner))
        else:
            said += text(part.get("text"))
    return said, thought


def _logprobs(value: Any) -> tuple[TokenLogprob, ...]:
    return tuple(_logprob(obj(entry)) for entry in items(obj(value).get("content")))


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    token = text(entry.get("token"))
    numbers = items(entry.get("bytes"))
    is_bytes = numbers and all(isinstance(n, int) and 0 <= n < 256 for n in numbers)
    logprob = entry.get("logprob")
    return TokenLogprob(
        text=token,
        data=bytes(numbers) if is_bytes else token.encode(),
        logprob=float(logprob) if isinstance(logprob, int | float) else 0.0,
        top=tuple(_logprob(obj(other)) for other in items(entry.get("top_logprobs"))),
    )
