"""The answer of Anthropic's messages to events. Pure."""

from __future__ import annotations

import json
from typing import Any

from shoal_common.errors import ShoalError
from shoal_gateway.providers.errors import ProviderAnswerBroken, ProviderFault, from_status
from shoal_gateway.providers.event_lines import ServerEvent
from shoal_gateway.providers.read_openai import parsed
from shoal_gateway.providers.values import count, error_text, items, obj, text
from shoal_gateway.task import (
    Admitted,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_ERROR_STATUS = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "invalid_request_error": 400,
    "timeout_error": 504,
}


class AnthropicAnswer:
    """Reads one answer, streamed or whole."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None
        self._stop_string: str | None = None
        self._call_count = 0
        # The call that is being written, and whether it has arguments yet.
        self._call_index: int | None = None
        self._has_arguments = False
        self.is_done = False

    def feed(self, event: ServerEvent) -> list[Event]:
        """Raises ProviderFailed, ProviderRefusedRequest."""
        message = parsed(self._provider, event.data)
        match message.get("type"):
            case "message_start":
                self._usage |= obj(obj(message.get("message")).get("usage"))
                return [self._admitted()]
            case "content_block_start":
                return self._block(obj(message.get("content_block")))
            case "content_block_delta":
                return self._delta(obj(message.get("delta")))
            case "content_block_stop":
                return self._close_call()
            case "message_delta":
                self._end(obj(message.get("delta")), message)
            case "message_stop":
                self.is_done = True
            case "error":
                raise error_of(self._provider, message)
        return []

    def object(self, message: dict[str, Any]) -> list[Event]:
        """A whole answer. Raises as `feed` does."""
        if message.get("type") == "error":
            raise error_of(self._provider, message)
        self._usage |= obj(message.get("usage"))
        events: list[Event] = [self._admitted()]
        for entry in items(message.get("content")):
            block = obj(entry)
            events += self._block(block)
            if signature := text(block.get("signature")):
                events.append(ReasoningDelta("", signature))
            events += self._close_call()
        self._end(message, message)
        return events

    def finish(self) -> list[Event]:
        """At the end of the stream. Raises ProviderAnswerBroken if the answer is not whole."""
        if self._reason is None:
            raise ProviderAnswerBroken(self._provider, "ended before it was finished")
        reason = _REASONS.get(self._reason, "stop")
        return [Finished(reason, self._whole_usage(), self._stop_string)]

    def conclude(self, usage: dict[str, Any]) -> None:
        """The answer is whole though its own end did not say so; `usage` as far as known."""
        self._reason = self._reason or "end_turn"
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _admitted(self) -> Admitted:
        usage = self._whole_usage()
        return Admitted(usage.prompt_tokens, usage.cached_tokens)

    def _block(self, block: dict[str, Any]) -> list[Event]:
        match block.get("type"):
            case "text" if said := text(block.get("text")):
                return [TextDelta(said)]
            case "thinking" if thought := text(block.get("thinking")):
                return [ReasoningDelta(thought)]
            case "redacted_thinking" if sealed := text(block.get("data")):
                return [ReasoningDelta("", sealed=sealed)]
            case "tool_use":
                self._call_index, self._has_arguments = self._call_count, False
                self._call_count += 1
                started = ToolCallStarted(
                    self._call_index, text(block.get("id")), text(block.get("name"))
                )
                if arguments := obj(block.get("input")):
                    return [started, *self._arguments(json.dumps(arguments, ensure_ascii=False))]
                return [started]
        return []

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        match delta.get("type"):
            case "text_delta":
                return [TextDelta(text(delta.get("text")))]
            case "thinking_delta":
                return [ReasoningDelta(text(delta.get("thinking")))]
            case "signature_delta":
                return [ReasoningDelta("", text(delta.get("signature")))]
            case "input_json_delta":
                return self._arguments(text(delta.get("partial_json")))
        return []

    def _arguments(self, piece: str) -> list[Event]:
        # Tools that run at the provider's own end write arguments too.
        if self._call_index is None or not piece:
            return []
        self._has_arguments = True
        return [ToolCallDelta(self._call_index, piece)]

    def _close_call(self) -> list[Event]:
        """A call without arguments is one with an empty object."""
        index, self._call_index = self._call_index, None
        if index is None or self._has_arguments:
            return []
        return [ToolCallDelta(index, "{}")]

    def _end(self, delta: dict[str, Any], message: dict[str, Any]) -> None:
        self._reason = text(delta.get("stop_reason")) or self._reason
        self._stop_string = text(delta.get("stop_sequence")) or None
        # Cumulative; what it leaves out stays as it was.
        later = obj(message.get("usage"))
        self._usage |= {name: value for name, value in later.items() if value is not None}

    def _whole_usage(self) -> Usage:
        usage = self._usage
        cached = count(usage.get("cache_read_input_tokens"))
        written = count(usage.get("cache_creation_input_tokens"))
        return Usage(
            # The other dialects count cached tokens among the prompt's.
            prompt_tokens=count(usage.get("input_tokens")) + cached + written,
            completion_tokens=count(usage.get("output_tokens")),
            cached_tokens=cached,
        )


def error_of(provider: str, message: dict[str, Any]) -> ShoalError:
    """The error that an event or body of type error means."""
    status = _ERROR_STATUS.get(text(obj(message.get("error")).get("type")))
    if status is None:
        return ProviderFault(provider, 0, error_text(message))
    return from_status(provider, status, None, error_text(message))
