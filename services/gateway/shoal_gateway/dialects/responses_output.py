"""The output items of one response while they grow: each knows its own events. Pure.

Events lack their sequence number, which the response gives them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from shoal_gateway.task import ReasoningDelta, TextDelta, TokenLogprob, ToolCallStarted

WireEvent = dict[str, Any]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputItem:
    """One item of the output. `status` is its own until it is closed."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.item_id = item_id
        self.output_index = output_index
        self.status: ItemStatus = "in_progress"

    def as_object(self) -> dict[str, Any]:
        """The item as it is by now."""
        raise AssertionError("every kind of item has its own form")

    def opening(self) -> list[WireEvent]:
        """Events before the first delta."""
        return [self._whole("response.output_item.added")]

    def closing(self, status: ItemStatus) -> list[WireEvent]:
        """Events behind the last delta; there is nothing more to add afterwards."""
        self.status = status
        return [*self._endings(), self._whole("response.output_item.done")]

    def _endings(self) -> list[WireEvent]:
        return []

    def _whole(self, kind: str) -> WireEvent:
        return {"type": kind, "output_index": self.output_index, "item": self.as_object()}

    def _event(self, kind: str, **fields: Any) -> WireEvent:
        place = {"item_id": self.item_id, "output_index": self.output_index}
        return {"type": kind, **place, **fields}


class TextItem(OutputItem):
    """A message of one text part."""

    def __init__(self, item_id: str, output_index: int, wants_logprobs: bool) -> None:
        super().__init__(item_id, output_index)
        self._wants_logprobs = wants_logprobs
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._is_begun = False

    def as_object(self) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self._part()] if self._is_begun else [],
        }

    def opening(self) -> list[WireEvent]:
        events = super().opening()
        self._is_begun = True
        part = self._event("response.content_part.added", content_index=0, part=self._part())
        return [*events, part]

    def add(self, delta: TextDelta) -> list[WireEvent]:
        logprobs = _logprobs(delta.logprobs) if self._wants_logprobs else []
        if not delta.text and not logprobs:
            return []
        self._texts.append(delta.text)
        self._logprobs.extend(logprobs)
        kind = "response.output_text.delta"
        return [self._event(kind, content_index=0, delta=delta.text, logprobs=logprobs)]

    def _endings(self) -> list[WireEvent]:
        part = self._part()
        done = self._event(
            "response.output_text.done",
            content_index=0,
            text=part["text"],
            logprobs=part["logprobs"],
        )
        return [done, self._event("response.content_part.done", content_index=0, part=part)]

    def _part(self) -> dict[str, Any]:
        text = "".join(self._texts)
        logprobs = list(self._logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class ReasoningItem(OutputItem):
    """Thoughts before the answer. A provider's signature travels as encrypted content."""

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self._texts: list[str] = []
        self._signature = ""
        self._is_begun = False

    def as_object(self) -> dict[str, Any]:
        item: dict[str, Any] = {
            "id": self.item_id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": [self._part()] if self._is_begun else [],
        }
        if self._signature:
            item["encrypted_content"] = self._signature
        return item

    def opening(self) -> list[WireEvent]:
        events = super().opening()
        self._is_begun = True
        part = self._event("response.content_part.added", content_index=0, part=self._part())
        return [*events, part]

    def add(self, delta: ReasoningDelta) -> list[WireEvent]:
        self._signature = delta.signature or self._signature
        if not delta.text:
            return []
        self._texts.append(delta.text)
        kind = "response.reasoning_text.delta"
        return [self._event(kind, content_index=0, delta=delta.text)]

    def _endings(self) -> list[WireEvent]:
        part = self._part()
        kind = "response.reasoning_text.done"
        done = self._event(kind, content_index=0, text=part["text"])
        return [done, self._event("response.content_part.done", content_index=0, part=part)]

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": "".join(self._texts)}


class CallItem(OutputItem):
    """A call of one of the client's functions."""

    def __init__(self, item_id: str, output_index: int, started: ToolCallStarted) -> None:
        super().__init__(item_id, output_index)
        self._started = started
        self._arguments: list[str] = []

    def as_object(self) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "function_call",
            "status": self.status,
            "call_id": self._started.call_id,
            "name": self._started.name,
            "arguments": "".join(self._arguments),
        }

    def add(self, arguments: str) -> list[WireEvent]:
        if not arguments:
            return []
        self._arguments.append(arguments)
        return [self._event("response.function_call_arguments.delta", delta=arguments)]

    def _endings(self) -> list[WireEvent]:
        kind = "response.function_call_arguments.done"
        name, arguments = self._started.name, "".join(self._arguments)
        return [self._event(kind, name=name, arguments=arguments)]


def _logprobs(entries: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        _candidate(entry) | {"top_logprobs": [_candidate(candidate) for candidate in entry.top]}
        for entry in entries
    ]


def _candidate(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}
