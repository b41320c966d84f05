"""One answer in OpenAI's responses: its events in order, and its object at any moment. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal_common.errors import InvalidRequest, Overloaded, ShoalError
from shoal_gateway.dialects import sse
from shoal_gateway.dialects.openai_render import by_model
from shoal_gateway.dialects.responses_items import item_id
from shoal_gateway.dialects.responses_output import (
    CallItem,
    ItemStatus,
    OutputItem,
    ReasoningItem,
    TextItem,
    WireEvent,
)
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

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
TERMINAL: tuple[Status, ...] = ("completed", "incomplete", "failed", "cancelled")
STATUSES: tuple[Status, ...] = ("queued", "in_progress", *TERMINAL)
_INCOMPLETE: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


@dataclass(frozen=True)
class ResponseHead:
    """What is known of a response before it is answered. `echo` repeats the request."""

    response_id: str
    created_at: int
    model: str
    is_background: bool
    wants_logprobs: bool
    echo: Mapping[str, Any] = field(repr=False)


class ResponseBuilder:
    """Made anew for each response; the events it returns are numbered from 0."""

    def __init__(self, head: ResponseHead, is_stored: bool, now: Callable[[], float]) -> None:
        self.status: Status = "queued" if head.is_background else "in_progress"
        self.is_stored = is_stored
        self._head = head
        self._now = now
        self._sequence_number = 0
        self._items: list[OutputItem] = []
        self._calls: dict[int, CallItem] = {}
        self._talking: TextItem | ReasoningItem | None = None
        self._usage: Usage | None = None
        self._error: dict[str, str] | None = None
        self._incomplete_reason: str | None = None
        self._completed_at: int | None = None

    @property
    def response_id(self) -> str:
        return self._head.response_id

    @property
    def is_ended(self) -> bool:
        """Nothing is added any more."""
        return self.status in TERMINAL

    def begin(self) -> list[WireEvent]:
        """What can be said before anything is computed."""
        second = "response.queued" if self.status == "queued" else "response.in_progress"
        return [self._snapshot("response.created"), self._snapshot(second)]

    def feed(self, event: Event) -> list[WireEvent]:
        """What an event of the answer adds."""
        assert not self.is_ended, "the answer has ended"
        match event:
            case Admitted():
                return self._start()
            case TextDelta() if event.text or (event.logprobs and self._head.wants_logprobs):
                return self._start() + self._say(event)
            case ReasoningDelta():
                return self._start() + self._think(event)
            case ToolCallStarted():
                return self._start() + self._call(event)
            case ToolCallDelta():
                return self._numbered(self._calls[event.index].add(event.arguments))
            case Finished():
                return self._start() + self._finish(event)
            case _:
                return []

    def fail(self, error: ShoalError) -> list[WireEvent]:
        """The end of an answer that cannot be given."""
        if self.is_ended:
            return []
        events = self._close_all("incomplete")
        self._error = error_of(error)
        return events + self._end("failed", "response.failed")

    def cancel(self) -> list[WireEvent]:
        """The end of an answer that is no longer wanted."""
        if self.is_ended:
            return []
        return self._close_all("incomplete") + self._end("cancelled", "response.incomplete")

    def as_object(self) -> dict[str, Any]:
        """The response as it is by now."""
        reason = self._incomplete_reason
        return {
            "id": self._head.response_id,
            "object": "response",
            "created_at": self._head.created_at,
            "completed_at": self._completed_at,
            "status": self.status,
            "background": self._head.is_background,
            "error": self._error,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._head.model,
            "output": [item.as_object() for item in self._items],
            "store": self.is_stored,
            "usage": None if self._usage is None else _usage(self._usage),
            **self._head.echo,
        }

    def _start(self) -> list[WireEvent]:
        if self.status != "queued":
            return []
        self.status = "in_progress"
        return [self._snapshot("response.in_progress")]

    def _say(self, delta: TextDelta) -> list[WireEvent]:
        events: list[WireEvent] = []
        if not isinstance(self._talking, TextItem):
            events = self._hush("completed")
            self._talking = TextItem(*self._place("msg"), self._head.wants_logprobs)
            events += self._opened(self._talking)
        return events + self._numbered(self._talking.add(delta))

    def _think(self, delta: ReasoningDelta) -> list[WireEvent]:
        events: list[WireEvent] = []
        if not isinstance(self._talking, ReasoningItem):
            if not delta.text and not delta.signature:
                return []
            events = self._hush("completed")
            self._talking = ReasoningItem(*self._place("rs"))
            events += self._opened(self._talking)
        return events + self._numbered(self._talking.add(delta))

    def _call(self, started: ToolCallStarted) -> list[WireEvent]:
        """Calls stay open until the end, for their deltas may come in turns."""
        assert started.index not in self._calls, "a call starts once"
        events = self._hush("completed")
        call = self._calls[started.index] = CallItem(*self._place("fc"), started)
        return events + self._opened(call)

    def _finish(self, finished: Finished) -> list[WireEvent]:
        self._usage = finished.usage
        reason = _INCOMPLETE.get(finished.reason)
        status: ItemStatus = "completed" if reason is None else "incomplete"
        events: list[WireEvent] = []
        if not any(isinstance(item, TextItem | CallItem) for item in self._items):
            # Clients look for a message; an empty answer has an empty one.
            events = self._hush("completed")
            self._talking = TextItem(*self._place("msg"), self._head.wants_logprobs)
            events += self._opened(self._talking)
        events += self._close_all(status)
        self._incomplete_reason = reason
        if reason is None:
            return events + self._end("completed", "response.completed")
        return events + self._end("incomplete", "response.incomplete")

    def _place(self, prefix: str) -> tuple[str, int]:
        index = len(self._items)
        return item_id(prefix, self._head.response_id, index, is_output=True), index

    def _opened(self, item: OutputItem) -> list[WireEvent]:
        self._items.append(item)
        return self._numbered(item.opening())

    def _hush(self, status: ItemStatus) -> list[WireEvent]:
        talking, self._talking = self._talking, None
        return [] if talking is None else self._numbered(talking.closing(status))

    def _close_all(self, status: ItemStatus) -> list[WireEvent]:
        events = self._hush(status)
        for call in self._calls.values():
            events += self._numbered(call.closing(status))
        return events

    def _end(self, status: Status, kind: str) -> list[WireEvent]:
        self.status = status
        self._completed_at = int(self._now()) if status == "completed" else None
        return [self._snapshot(kind)]

    def _snapshot(self, kind: str) -> WireEvent:
        return self._numbered([{"type": kind, "response": self.as_object()}])[0]

    def _numbered(self, events: list[WireEvent]) -> list[WireEvent]:
        for event in events:
            event["sequence_number"] = self._sequence_number
            self._sequence_number += 1
        return events


@dataclass(frozen=True)
class ResponseStream:
    """The events of a response that is answered on this connection."""

    builder: ResponseBuilder

    def feed(self, item: bytes) -> bytes:
        return item

    def keep_alive(self) -> bytes:
        return sse.KEEP_ALIVE

    def failure(self, error: ShoalError) -> bytes:
        return frames(self.builder.fail(error))


class StoredStream:
    """The events of a response that is answered elsewhere; its end is not this stream's end."""

    def feed(self, item: bytes) -> bytes:
        return item

    def keep_alive(self) -> bytes:
        return sse.KEEP_ALIVE

    def failure(self, error: ShoalError) -> bytes:
        problem = error_of(error)
        return frame({"type": "error", "sequence_number": 0, "param": None, **problem})


def frame(event: WireEvent) -> bytes:
    """An event on the wire."""
    return sse.data_event(event, event["type"])


def frames(events: list[WireEvent]) -> bytes:
    """Events on the wire, in order."""
    return b"".join(map(frame, events))


def failed_event(response: dict[str, Any], error: ShoalError, sequence_number: int) -> WireEvent:
    """The end of a response whose builder is gone: `response` as it was last known, failed."""
    failed = response | {"status": "failed", "error": error_of(error)}
    return {"type": "response.failed", "response": failed, "sequence_number": sequence_number}


def error_of(error: ShoalError) -> dict[str, str]:
    """An error inside a response, by the few codes that the API has."""
    code = "server_error"
    if isinstance(error, Overloaded):
        code = "rate_limit_exceeded"
    elif isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    return {"code": code, "message": str(error)}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        **by_model([usage]),
    }
