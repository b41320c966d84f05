"""The turns and content blocks of Anthropic's messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.fields import image_at, image_of, present
from shoal_gateway.task import CachePoint, Image, Message, Thought, ToolCall

BLOCK_COUNT_MAX = 4096
ROLES = ("user", "assistant", "system")
# What each holder of blocks may hold.
BLOCK_TYPES = {
    "system": ("text",),
    "user": ("text", "image", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "tool_result": ("text", "image", "document", "search_result"),
    "document": ("text", "image"),
    "search_result": ("text",),
}
# Between the texts of neighbouring blocks.
SEPARATOR = "\n"
CACHE_TTLS = ("5m", "1h")
_HOSTED = "it belongs to tools that run at Anthropic's; leave it out"


@dataclass
class _Turn:
    """What the blocks of one message add up to. `length` is the text's."""

    pieces: list[str] = field(default_factory=list)
    length: int = 0
    images: list[Image] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    thoughts: list[Thought] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    cache_points: list[CachePoint] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Put together at the end: adding to a string copies it, thousands of times."""
        if not text:
            return
        if self.pieces:
            self.pieces.append(SEPARATOR)
            self.length += len(SEPARATOR)
        self.pieces.append(text)
        self.length += len(text)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reasoning(self) -> str:
        return SEPARATOR.join(thought.text for thought in self.thoughts if not thought.sealed)

    @property
    def signature(self) -> str:
        """Of the only thought; several are one here, which no signature covers."""
        signatures = [thought.signature for thought in self.thoughts if not thought.sealed]
        return signatures[0] if len(signatures) == 1 else ""


def messages_of(given: dict[str, Any]) -> tuple[Message, ...]:
    """`system` and `messages` in order. Raises InvalidRequest naming what is wrong."""
    if "messages" not in given:
        raise InvalidRequest("'messages' is required", param="messages")
    entries = limits.as_list(given["messages"], "messages", limits.MESSAGE_COUNT_MAX)
    if not entries:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    system = _turn(given.get("system", ""), "system", "system", {})
    messages = []
    if system.length:
        messages.append(Message("system", system.text, cache_points=tuple(system.cache_points)))
    tool_names: dict[str, str] = {}
    for index, entry in enumerate(entries):
        messages.extend(_messages(entry, f"messages[{index}]", tool_names))
    return tuple(messages)


def _messages(entry: Any, param: str, tool_names: dict[str, str]) -> Iterator[Message]:
    """One entry is several messages where it holds tool results: these come first."""
    given = limits.as_object(entry, param)
    role = limits.as_text(given.get("role"), f"{param}.role")
    if role not in ROLES:
        raise InvalidRequest(
            f"'{param}.role' must be one of {', '.join(ROLES)}", param=f"{param}.role"
        )
    turn = _turn(given.get("content"), f"{param}.content", role, tool_names)
    yield from turn.results
    points = tuple(turn.cache_points)
    if role == "system":
        yield Message("system", turn.text, cache_points=points)
    elif role == "user":
        if turn.length or turn.images or not turn.results:
            yield Message("user", turn.text, images=tuple(turn.images), cache_points=points)
    else:
        tool_names |= {call.call_id: call.name for call in turn.calls}
        yield Message(
            "assistant",
            turn.text,
            tool_calls=tuple(turn.calls),
            reasoning=turn.reasoning,
            signature=turn.signature,
            thoughts=tuple(turn.thoughts),
            cache_points=points,
        )


def _turn(content: Any, param: str, holder: str, tool_names: dict[str, str]) -> _Turn:
    turn = _Turn()
    if isinstance(content, str):
        turn.say(content)
        return turn
    if not isinstance(content, list):
        raise limits.wrong_type(param, "a string or an array of content blocks", content)
    for index, entry in enumerate(limits.as_list(content, param, BLOCK_COUNT_MAX)):
        where = f"{param}[{index}]"
        block = present(limits.as_object(entry, where))
        kind = limits.as_text(block.get("type"), f"{where}.type")
        if kind not in BLOCK_TYPES[holder]:
            raise _unsupported(kind, holder, f"{where}.type")
        _add(turn, kind, block, where, tool_names)
        # A result is a message of its own, with its own point.
        if kind != "tool_result" and (ttl := cache_ttl(block, where)):
            turn.cache_points.append(CachePoint(turn.length, ttl))
    return turn


def cache_ttl(block: dict[str, Any], param: str) -> str:
    """How long its `cache_control` wants the prompt kept up to the block; "" without one."""
    param = f"{param}.cache_control"
    given = present(limits.as_object(block.get("cache_control") or {}, param))
    if not given:
        return ""
    if given.get("type") != "ephemeral" or given.get("ttl", "5m") not in CACHE_TTLS:
        raise InvalidRequest(
            f"'{param}' must be of type ephemeral, with a ttl of {' or '.join(CACHE_TTLS)}",
            param=param,
        )
    return str(given.get("ttl", "5m"))


def _add(
    turn: _Turn, kind: str, block: dict[str, Any], param: str, tool_names: dict[str, str]
) -> None:
    match kind:
        case "text":
            turn.say(limits.as_text(block.get("text"), f"{param}.text"))
        case "image":
            turn.images.append(_image(block, f"{param}.source", turn.length))
        case "document":
            _add_document(turn, block, param)
        case "search_result":
            _add_search_result(turn, block, param)
        case "thinking":
            thought = limits.as_text(block.get("thinking"), f"{param}.thinking")
            signature = limits.as_text(block.get("signature", ""), f"{param}.signature")
            turn.thoughts.append(Thought(thought, signature))
        case "redacted_thinking":
            # Only who sealed it can read it.
            sealed = limits.as_text(block.get("data"), f"{param}.data")
            turn.thoughts.append(Thought(sealed=sealed))
        case "tool_use":
            turn.calls.append(_tool_use(block, param))
        case "tool_result":
            turn.results.append(_tool_result(block, param, tool_names))


def _tool_use(block: dict[str, Any], param: str) -> ToolCall:
    given = limits.as_object(block.get("input"), f"{param}.input")
    return ToolCall(
        call_id=limits.as_text(block.get("id"), f"{param}.id"),
        name=limits.as_text(block.get("name"), f"{param}.name"),
        arguments=json_text(given, f"{param}.input"),
    )


def _tool_result(block: dict[str, Any], param: str, tool_names: dict[str, str]) -> Message:
    call_id = limits.as_text(block.get("tool_use_id"), f"{param}.tool_use_id")
    turn = _turn(block.get("content", ""), f"{param}.content", "tool_result", {})
    points = list(turn.cache_points)
    if ttl := cache_ttl(block, param):
        points = [point for point in points if point.offset < turn.length]
        points.append(CachePoint(turn.length, ttl))
    return Message(
        "tool",
        turn.text,
        tool_call_id=call_id,
        name=tool_names.get(call_id, ""),
        images=tuple(turn.images),
        is_error=limits.as_boolean(block.get("is_error", False), f"{param}.is_error"),
        cache_points=tuple(points),
    )


def _image(block: dict[str, Any], param: str, offset: int) -> Image:
    source = present(limits.as_object(block.get("source"), param))
    kind = limits.as_text(source.get("type"), f"{param}.type")
    if kind == "base64":
        media_type = limits.as_text(source.get("media_type"), f"{param}.media_type")
        data = limits.as_text(source.get("data"), f"{param}.data")
        return image_of(media_type, data, f"{param}.data", offset)
    if kind == "url":
        return image_at(limits.as_text(source.get("url"), f"{param}.url"), f"{param}.url", offset)
    raise InvalidRequest(
        f"'{param}.type' is '{kind[:40]}'; base64 and url are supported", param=f"{param}.type"
    )


def _add_document(turn: _Turn, block: dict[str, Any], param: str) -> None:
    """Title, context and text, one below the other."""
    for name in ("title", "context"):
        turn.say(limits.as_text(block.get(name, ""), f"{param}.{name}"))
    where = f"{param}.source"
    source = present(limits.as_object(block.get("source"), where))
    kind = limits.as_text(source.get("type"), f"{where}.type")
    if kind == "text":
        turn.say(limits.as_text(source.get("data"), f"{where}.data"))
    elif kind == "content":
        _add_nested(turn, source.get("content"), f"{where}.content", kind="document")
    else:
        raise InvalidRequest(
            f"'{where}.type' is '{kind[:40]}'; only text can be read: send the document's text "
            "with a source of type text, or its pages as image blocks",
            param=f"{where}.type",
        )


def _add_search_result(turn: _Turn, block: dict[str, Any], param: str) -> None:
    for name in ("title", "source"):
        turn.say(limits.as_text(block.get(name), f"{param}.{name}"))
    _add_nested(turn, block.get("content"), f"{param}.content", kind="search_result")


def _add_nested(turn: _Turn, content: Any, param: str, kind: str) -> None:
    """Text and images of a block of `kind`, which holds blocks."""
    inner = _turn(content, param, kind, {})
    turn.say(inner.text)
    start = turn.length - inner.length
    for image in inner.images:
        turn.images.append(
            Image(image.media_type, image.data, offset=start + image.offset, url=image.url)
        )


def json_text(value: Any, param: str) -> str:
    """Compact JSON of a parsed value."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as err:
        raise InvalidRequest(f"'{param}' is nested too deeply", param=param) from err


def _unsupported(kind: str, holder: str, param: str) -> InvalidRequest:
    allowed = ", ".join(BLOCK_TYPES[holder])
    is_hosted = kind.startswith(("server_tool", "mcp_")) or (
        kind.endswith("_tool_result") and kind != "tool_result"
    )
    hint = _HOSTED if is_hosted else f"a {holder} may hold: {allowed}"
    return InvalidRequest(f"'{param}' is '{kind[:60]}', which cannot be read here; {hint}", param)
