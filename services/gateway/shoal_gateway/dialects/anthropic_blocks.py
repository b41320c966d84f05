"""The contents of an answer as Anthropic's content blocks, one open at a time. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shoal_gateway.task import Content, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted

Part = dict[str, Any]


@dataclass
class _HeldCall:
    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class BlockWriter:
    """Turns contents into content_block_start, _delta and _stop; indexes count from 0.

    A call is held until its arguments are a whole JSON object, so that no client runs half a
    call, and calls whose deltas are mixed come one after another. What never becomes one is said
    as text.
    """

    def __init__(self, hides_thinking: bool = False) -> None:
        self._hides_thinking = hides_thinking
        self._index = -1
        # The type of the open block, "" for none.
        self._kind = ""
        self._is_signed = False
        self._held: dict[int, _HeldCall] = {}
        self._call_count = 0

    @property
    def has_calls(self) -> bool:
        """At least one block is a tool's call."""
        return self._call_count > 0

    def feed(self, content: Content) -> list[Part]:
        """What may be sent now."""
        match content:
            case ToolCallDelta():
                return self._argue(content)
            case ToolCallStarted():
                parts = self._release()
                self._held[content.index] = _HeldCall(content.call_id, content.name)
                return parts
            case TextDelta():
                return self._release() + self._say(content.text)
            case ReasoningDelta():
                return self._release() + self._think(content)

    def finish(self) -> list[Part]:
        """What was held back, and the end of the last block."""
        parts = self._release()
        for call in self._held.values():
            if call.arguments.strip():
                parts += self._say(f"{call.name}({call.arguments})")
            else:
                parts += self._call(call, {})
        self._held.clear()
        return parts + self._close()

    def _say(self, text: str) -> list[Part]:
        if not text:
            return []
        parts = [] if self._kind == "text" else self._open({"type": "text", "text": ""})
        return [*parts, self._delta({"type": "text_delta", "text": text})]

    def _think(self, content: ReasoningDelta) -> list[Part]:
        if content.sealed:
            return [*self._open({"type": "redacted_thinking", "data": content.sealed})]
        if not content.text and not content.signature:
            return []
        parts = []
        if self._kind != "thinking" or self._is_signed:
            parts = self._open({"type": "thinking", "thinking": "", "signature": ""})
        if content.text and not self._hides_thinking:
            parts.append(self._delta({"type": "thinking_delta", "thinking": content.text}))
        if content.signature:
            self._is_signed = True
            delta = {"type": "signature_delta", "signature": content.signature}
            parts.append(self._delta(delta))
        return parts

    def _argue(self, content: ToolCallDelta) -> list[Part]:
        call = self._held.get(content.index)
        if call is None:
            # Its call is out already: whatever follows a whole object is no part of it.
            return self._say(content.arguments.strip())
        call.pieces.append(content.arguments)
        return []

    def _release(self) -> list[Part]:
        """The held calls that are whole."""
        parts: list[Part] = []
        for index, call in list(self._held.items()):
            value = _object_of(call.arguments)
            if value is not None:
                parts += self._call(call, value)
                del self._held[index]
        return parts

    def _call(self, call: _HeldCall, value: dict[str, Any]) -> list[Part]:
        self._call_count += 1
        block = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
        text = call.arguments if value else "{}"
        delta = {"type": "input_json_delta", "partial_json": text}
        return [*self._open(block), self._delta(delta)]

    def _open(self, block: Part) -> list[Part]:
        parts = self._close()
        self._index += 1
        self._kind = block["type"]
        self._is_signed = False
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*parts, start]

    def _delta(self, delta: Part) -> Part:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> list[Part]:
        if not self._kind:
            return []
        self._kind = ""
        return [{"type": "content_block_stop", "index": self._index}]


def blocks_of(parts: Iterable[Part]) -> list[Part]:
    """The whole blocks that the parts of one answer add up to."""
    blocks: list[Part] = []
    for part in parts:
        if part["type"] == "content_block_start":
            blocks.append(dict(part["content_block"]))
        elif part["type"] == "content_block_delta":
            _add_delta(blocks[part["index"]], part["delta"])
    return blocks


def _add_delta(block: Part, delta: Part) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["input"] = json.loads(delta["partial_json"])


def _object_of(text: str) -> dict[str, Any] | None:
    """None for what is not a whole JSON object that every client can read."""
    if not text.rstrip().endswith("}"):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        # Halves of surrogate pairs are no characters.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
