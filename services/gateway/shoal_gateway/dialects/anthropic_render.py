"""The answers of Anthropic's messages as JSON objects and as a stream. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import Internal, ShoalError
from shoal_gateway.dialects import sse
from shoal_gateway.dialects.anthropic_blocks import BlockWriter, Part, blocks_of
from shoal_gateway.dialects.openai_render import by_model
from shoal_gateway.task import Admitted, ChatTask, Event, Finished, Queued, ToolCallDelta, Usage

ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
PING = sse.data_event({"type": "ping"}, "ping")
# While a call's arguments are held back, a ping for each so many pieces shows that they grow.
HELD_PIECES_PER_PING = 32
# What a full queue answers; clients and their back-off know it apart from a used-up limit.
OVERLOADED_STATUS = 529
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class MessageEnvelope:
    """What all parts of one answer share.

    max_tokens: as was asked. prompt_tokens_guess: told at the start where who answers does not
    know the number yet.
    """

    message_id: str
    model: str
    request_id: str
    max_tokens: int = 0
    prompt_tokens_guess: int = 1
    hides_thinking: bool = False

    def wrap(self, content: list[Part], end: Part, usage: dict[str, Any]) -> dict[str, Any]:
        """The message around its content."""
        head = {"id": self.message_id, "type": "message", "role": "assistant", "model": self.model}
        return {**head, "content": content, **end, "usage": usage}

    def end_of(self, finished: Finished, has_calls: bool) -> Part:
        """Why the answer ended, by what was really written: a call that was none ends a turn."""
        reason = STOP_REASONS[finished.reason]
        if finished.reason in ("stop", "tool_calls"):
            reason = "tool_use" if has_calls else "end_turn"
            if finished.stop_string is not None:
                reason = "stop_sequence"
        elif finished.reason == "length" and 0 < finished.usage.completion_tokens < self.max_tokens:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": finished.stop_string}

    async def whole(self, events: AsyncGenerator[Event, None]) -> dict[str, Any]:
        """The body for clients that do not stream. Raises what the events raise."""
        writer = BlockWriter(self.hides_thinking)
        parts: list[Part] = []
        async with aclosing(events):
            async for event in events:
                match event:
                    case Queued() | Admitted():
                        continue
                    case Finished():
                        content = blocks_of(parts + writer.finish())
                        end = self.end_of(event, writer.has_calls)
                        return self.wrap(content, end, usage_of(event.usage))
                    case _:
                        parts += writer.feed(event)
        raise Internal("the answer ended without a finish")


class MessageStream:
    """The events of one answer, in the order that Anthropic's clients accumulate."""

    def __init__(self, envelope: MessageEnvelope) -> None:
        self._envelope = envelope
        self._writer = BlockWriter(envelope.hides_thinking)
        self._is_begun = False
        self._held_pieces = 0

    def feed(self, event: Event) -> bytes:
        match event:
            case Queued():
                return b""
            case Admitted():
                return self._begin(Usage(event.prompt_tokens, 0, event.cached_tokens))
            case Finished():
                return self._begin(event.usage) + self._finish(event)
            case _:
                data = self._begin(Usage(0, 0)) + _events(self._writer.feed(event))
                return data or self._held_ping(event)

    def keep_alive(self) -> bytes:
        return PING if self._is_begun else sse.KEEP_ALIVE

    def failure(self, error: ShoalError) -> bytes:
        body = error_object(error)
        return sse.data_event(body | {"request_id": self._envelope.request_id}, "error")

    def _begin(self, usage: Usage) -> bytes:
        """Once: a replayed answer is admitted again, and goes on where it was."""
        if self._is_begun:
            return b""
        self._is_begun = True
        prompt_tokens = usage.prompt_tokens or self._envelope.prompt_tokens_guess
        told = usage_of(Usage(prompt_tokens, 1, usage.cached_tokens))
        message = self._envelope.wrap([], {"stop_reason": None, "stop_sequence": None}, told)
        return _events([{"type": "message_start", "message": message}]) + PING

    def _finish(self, finished: Finished) -> bytes:
        parts = self._writer.finish()
        delta = {
            "type": "message_delta",
            "delta": self._envelope.end_of(finished, self._writer.has_calls),
            "usage": usage_of(finished.usage),
        }
        return _events([*parts, delta, {"type": "message_stop"}])

    def _held_ping(self, event: Event) -> bytes:
        if not isinstance(event, ToolCallDelta):
            return b""
        self._held_pieces += 1
        return b"" if self._held_pieces % HELD_PIECES_PER_PING else PING


def usage_of(usage: Usage) -> dict[str, Any]:
    """Cached tokens are not among the input tokens here. Nothing is known of what is cached now."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    told: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return told | by_model([usage])


def guess_prompt_tokens(task: ChatTask) -> int:
    """From the lengths of the prompt's texts; never 0."""
    texts = [message.text + message.reasoning for message in task.messages]
    return 1 + sum(map(len, texts)) // _CHARS_PER_TOKEN


def error_object(error: ShoalError) -> dict[str, Any]:
    """The body of an error; who sends it fills in the id of the request."""
    status = error_status(error)
    default = "invalid_request_error" if status < 500 else "api_error"
    kind = ERROR_TYPES.get(status, default)
    return {
        "type": "error",
        "error": {"type": kind, "message": str(error)},
        "request_id": None,
    }


def error_status(error: ShoalError) -> int:
    """As HTTP, except that a full queue is not a used-up limit here."""
    return OVERLOADED_STATUS if error.reason == "OVERLOADED" else error.http_status


def _events(parts: list[Part]) -> bytes:
    return b"".join(sse.data_event(part, part["type"]) for part in parts)
