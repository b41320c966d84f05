"""The answers of OpenAI's chat completions as JSON objects and as a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.collect import Collected
from shoal_gateway.dialects import sse
from shoal_gateway.task import (
    Admitted,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class ChatEnvelope:
    """What all parts of one answer share. `wants_logprobs` as was asked."""

    response_id: str
    created: int
    model: str
    fingerprint: str = ""
    wants_logprobs: bool = False

    def wrap(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The object around choices."""
        envelope = {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return envelope | ({"system_fingerprint": self.fingerprint} if self.fingerprint else {})

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """The body for clients that do not stream."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        usage = usage_of([answer.finished.usage for answer in answers])
        return self.wrap("chat.completion", choices) | {"usage": usage}

    def _choice(self, index: int, answer: Collected) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text if answer.text or not answer.calls else None,
            "refusal": None,
        }
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [call_object(call) for call in answer.calls]
        return {
            "index": index,
            "message": message,
            "finish_reason": answer.finished.reason,
            "logprobs": _logprobs(answer.logprobs) if self.wants_logprobs else None,
        }


class ChatStream:
    """The chunks of one answer of `choice_count` choices."""

    def __init__(self, envelope: ChatEnvelope, choice_count: int, wants_usage: bool) -> None:
        self._envelope = envelope
        self._choice_count = choice_count
        self._wants_usage = wants_usage
        self._is_begun = False
        self._usages: list[Usage] = []

    def feed(self, item: tuple[int, Event]) -> bytes:
        index, event = item
        match event:
            case Admitted():
                return self._begin()
            case Finished():
                return self._begin() + self._finish(index, event)
            case TextDelta():
                logprobs = None
                if self._envelope.wants_logprobs:
                    logprobs = _logprobs(event.logprobs)
                return self._begin() + self._delta(
                    index, {"content": event.text}, logprobs=logprobs
                )
            case ReasoningDelta():
                if not event.text:
                    return b""
                return self._begin() + self._delta(index, {"reasoning_content": event.text})
            case ToolCallStarted() | ToolCallDelta():
                return self._begin() + self._delta(index, {"tool_calls": [_call_part(event)]})
            case _:
                return b""

    def keep_alive(self) -> bytes:
        return sse.KEEP_ALIVE

    def failure(self, error: ShoalError) -> bytes:
        return sse.data_event(error_object(error))

    def _begin(self) -> bytes:
        """All choices at once and in order: clients accumulate by position."""
        if self._is_begun:
            return b""
        self._is_begun = True
        role = {"role": "assistant", "content": ""}
        return b"".join(self._delta(index, role) for index in range(self._choice_count))

    def _finish(self, index: int, finished: Finished) -> bytes:
        self._usages.append(finished.usage)
        data = self._delta(index, {}, finish_reason=finished.reason)
        if len(self._usages) < self._choice_count:
            return data
        if self._wants_usage:
            usage = {"usage": usage_of(self._usages)}
            data += sse.data_event(self._envelope.wrap("chat.completion.chunk", []) | usage)
        return data + sse.DONE

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": logprobs,
        }
        chunk = self._envelope.wrap("chat.completion.chunk", [choice])
        if self._wants_usage:
            chunk["usage"] = None
        return sse.data_event(chunk)


def error_object(error: ShoalError) -> dict[str, Any]:
    """The body of an error, on the wire or inside a stream."""
    default = "invalid_request_error" if error.http_status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": ERROR_TYPES.get(error.http_status, default),
            "param": error.param if isinstance(error, InvalidRequest) else None,
            "code": error.reason.lower(),
        }
    }


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage of choices that share one prompt."""
    prompt_tokens = max(usage.prompt_tokens for usage in usages)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    reasoning_tokens = sum(usage.reasoning_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
        **by_model(usages),
    }


def by_model(usages: Sequence[Usage]) -> dict[str, Any]:
    """A field of ours where several models had a part: what each computed, seen or not."""
    parts = [usage.by_model for usage in usages if usage.by_model is not None]
    if not parts:
        return {}
    sums: dict[str, dict[str, int]] = {}
    for part in parts:
        for model, usage in part.items():
            counts = sums.setdefault(model, {"prompt_tokens": 0, "completion_tokens": 0})
            counts["prompt_tokens"] += usage.prompt_tokens
            counts["completion_tokens"] += usage.completion_tokens
    return {"by_model": sums}


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call of a tool, as messages hold it."""
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _call_part(event: ToolCallStarted | ToolCallDelta) -> dict[str, Any]:
    if isinstance(event, ToolCallStarted):
        return {"index": event.index} | call_object(ToolCall(event.call_id, event.name, ""))
    return {"index": event.index, "function": {"arguments": event.arguments}}


def _logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {"content": [_logprob(entry) for entry in entries], "refusal": None}


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [_candidate(candidate) for candidate in entry.top]
    return _candidate(entry) | {"top_logprobs": top}


def _candidate(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}
