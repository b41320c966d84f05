"""A conversation as chat templates read it, and what a template wants of earlier tool calls. Pure.

Templates differ in one thing that cannot be told from their text with certainty: whether a call's
arguments must be an object, which they write as JSON, or the JSON text itself. So a template is
asked: it renders a short conversation whose arguments are known, and its output shows what it did.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal_gateway.task import ChatTask, Message, Thinking, Tool, ToolCall

_PROBE_NAME = "probe"
_PROBE_TEXT = '{"needle_key": "needle value"}'
_NEEDLE = re.compile(r'(?<!\\)"needle_key": ?"needle value"')
# Between what stood in neighbouring messages.
_BETWEEN = "\n\n"
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_EFFORTS = frozenset({"minimal", "low", "medium", "high", "xhigh"})


@dataclass(frozen=True)
class HistoryStyle:
    """What a template wants. reads_text: arguments as the JSON text they were written in; else as
    objects. is_single: one call a message. has_short_ids: ids of nine letters and digits."""

    reads_text: bool = False
    is_single: bool = False
    has_short_ids: bool = False


# Renderings that tell the style of a template; where one is refused its text is "".
Probes = tuple[str, str, str]


def needs_style(task: ChatTask) -> bool:
    """Earlier turns called tools."""
    return any(message.tool_calls for message in task.messages)


def probe_conversations(tokens: Mapping[str, str]) -> list[dict[str, Any]]:
    """Variables of three renderings: arguments as text, as objects, and two calls at once."""
    as_text = _probe(_PROBE_TEXT, 1)
    as_object = _probe(json.loads(_PROBE_TEXT), 1)
    two = _probe(json.loads(_PROBE_TEXT), 2)
    tool = _tool(Tool(_PROBE_NAME, "A probe.", {"type": "object", "properties": {}}))
    return [
        {**tokens, "messages": messages, "tools": [tool], "add_generation_prompt": False}
        for messages in (as_text, as_object, two)
    ]


def style_of(probes: Probes, template: str) -> HistoryStyle:
    """Text wins where both are read, since it is what the model wrote."""
    as_text, as_object, two = probes
    return HistoryStyle(
        reads_text=_NEEDLE.search(as_text) is not None,
        is_single=bool(as_object) and not two,
        has_short_ids="[TOOL_CALLS]" in template,
    )


def _probe(arguments: Any, call_count: int) -> list[dict[str, Any]]:
    ids = [f"probe000{index}" for index in range(call_count)]
    function = {"name": _PROBE_NAME, "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ids]
    results = [
        {"role": "tool", "content": "found", "tool_call_id": call_id, "name": _PROBE_NAME}
        for call_id in ids
    ]
    return [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
    ]


def alternatives(messages: tuple[Message, ...]) -> list[tuple[Message, ...]]:
    """The same conversation for templates that want turns to alternate, or know no system.

    Nearest to what was said first; none that is what was said.
    """
    merged = _merged(messages)
    folded = _merged(_without_system(merged))
    found = [merged] if merged != messages else []
    return [*found, folded] if folded != merged else found


def _merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbours of one role as one message. Results of tools stay apart: each has its call."""
    turns: list[list[Message]] = []
    for message in messages:
        if turns and message.role == turns[-1][0].role != "tool":
            turns[-1].append(message)
        else:
            turns.append([message])
    return tuple(_joined(turn) for turn in turns)


def _joined(turn: list[Message]) -> Message:
    """One message that says what several said."""
    if len(turn) == 1:
        return turn[0]
    text, images = "", []
    for message in turn:
        if text and message.text:
            text += _BETWEEN
        images += [replace(image, offset=image.offset + len(text)) for image in message.images]
        text += message.text
    return replace(
        turn[0],
        text=text,
        images=tuple(images),
        tool_calls=tuple(call for message in turn for call in message.tool_calls),
        reasoning=_BETWEEN.join(message.reasoning for message in turn if message.reasoning),
        # It proves one message's thoughts, not those of several.
        signature="",
    )


def _without_system(messages: tuple[Message, ...]) -> list[Message]:
    """What the system says, said by the user."""
    return [replace(m, role="user") if m.role == "system" else m for m in messages]


def template_variables(
    task: ChatTask, special_tokens: Mapping[str, str], style: HistoryStyle
) -> dict[str, Any]:
    """What a chat template may read."""
    shown = () if task.tool_choice.mode == "none" else task.tools
    messages = _named(task.messages)
    if style.is_single:
        messages = _one_call_each(messages)
    variables = {
        **special_tokens,
        "messages": [_message(message, style) for message in messages],
        "tools": [_tool(tool) for tool in shown] or None,
        "documents": None,
        "add_generation_prompt": True,
    }
    return variables | _thinking(task.thinking)


def _thinking(thinking: Thinking) -> dict[str, Any]:
    """Families of models read different words for the same switch."""
    if not thinking.level:
        return {}
    is_on = thinking.level != "off"
    variables: dict[str, Any] = {"enable_thinking": is_on, "thinking": is_on}
    if thinking.level in _EFFORTS:
        variables["reasoning_effort"] = thinking.level
    return variables


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = dict(tool.parameters)
    return {"type": "function", "function": function}


def _named(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Some templates want to know of a result which tool it is of; clients say only the call."""
    names: dict[str, str] = {}
    named = []
    for message in messages:
        names |= {call.call_id: call.name for call in message.tool_calls}
        if message.role == "tool" and not message.name and message.tool_call_id in names:
            message = replace(message, name=names[message.tool_call_id])
        named.append(message)
    return tuple(named)


def _one_call_each(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Calls that were made at once as calls in turn, each before its result."""
    results = {m.tool_call_id: m for m in messages if m.role == "tool" and m.tool_call_id}
    moved: set[int] = set()
    turns: list[Message] = []
    for message in messages:
        if id(message) in moved:
            continue
        if len(message.tool_calls) < 2:
            turns.append(message)
            continue
        for index, call in enumerate(message.tool_calls):
            turn = message if index == 0 else replace(message, text="", reasoning="")
            turns.append(replace(turn, tool_calls=(call,)))
            if (result := results.get(call.call_id)) is not None:
                turns.append(result)
                moved.add(id(result))
    return tuple(turns)


def _message(message: Message, style: HistoryStyle) -> dict[str, Any]:
    """The shape that published templates read."""
    fields: dict[str, Any] = {"role": message.role, "content": message.told}
    if message.tool_calls:
        fields["tool_calls"] = [_call(call, style) for call in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = _id(message.tool_call_id, style)
    if message.name:
        fields["name"] = message.name
    if message.reasoning:
        fields["reasoning_content"] = message.reasoning
    return fields


def _call(call: ToolCall, style: HistoryStyle) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _arguments(call.arguments, style)}
    return {"id": _id(call.call_id, style), "type": "function", "function": function}


def _arguments(text: str, style: HistoryStyle) -> Any:
    """Text that is no JSON object stays text: the model sees what it wrote."""
    if not text.strip():
        text = "{}"
    if style.reads_text:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _id(call_id: str, style: HistoryStyle) -> str:
    """The same call has the same short id in every turn."""
    if not style.has_short_ids or _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
