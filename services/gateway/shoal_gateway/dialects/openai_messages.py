"""The messages of OpenAI's chat completions. Pure."""

from __future__ import annotations

from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.fields import image_at
from shoal_gateway.task import Image, Message, Role, ToolCall

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def messages_of(given: dict[str, Any]) -> tuple[Message, ...]:
    """Raises InvalidRequest naming what is wrong."""
    if "messages" not in given:
        raise InvalidRequest("'messages' is required", param="messages")
    entries = limits.as_list(given["messages"], "messages", limits.MESSAGE_COUNT_MAX)
    if not entries:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    return tuple(_message(entry, f"messages[{index}]") for index, entry in enumerate(entries))


def _message(entry: Any, param: str) -> Message:
    fields = limits.as_object(entry, param)
    role = limits.as_text(fields.get("role"), f"{param}.role")
    if role not in ROLES:
        raise InvalidRequest(
            f"'{param}.role' must be one of {', '.join(ROLES)}", param=f"{param}.role"
        )
    calls = _tool_calls(fields.get("tool_calls"), f"{param}.tool_calls")
    # An assistant that refused or only called, and a function without a result, said nothing.
    may_be_absent = role in ("assistant", "function")
    text, images = _content(fields.get("content"), f"{param}.content", may_be_absent)
    if role == "assistant" and not text:
        text = limits.as_text(fields.get("refusal") or "", f"{param}.refusal")
    reasoning = fields.get("reasoning_content") or fields.get("reasoning") or ""
    return Message(
        role=ROLES[role],
        text=text,
        images=images,
        tool_calls=calls,
        tool_call_id=limits.as_text(fields.get("tool_call_id") or "", f"{param}.tool_call_id"),
        name=limits.as_text(fields.get("name") or "", f"{param}.name"),
        reasoning=limits.as_text(reasoning, f"{param}.reasoning_content"),
    )


def _content(value: Any, param: str, may_be_absent: bool) -> tuple[str, tuple[Image, ...]]:
    if value is None and may_be_absent:
        return "", ()
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, list):
        raise limits.wrong_type(param, "a string or an array of parts", value)
    text = ""
    images: list[Image] = []
    for index, entry in enumerate(value):
        where = f"{param}[{index}]"
        part = limits.as_object(entry, where)
        kind = limits.as_text(part.get("type"), f"{where}.type")
        if kind in ("text", "refusal"):
            text += limits.as_text(part.get(kind), f"{where}.{kind}")
        elif kind == "image_url":
            images.append(_image(part.get("image_url"), f"{where}.image_url", len(text)))
        else:
            raise InvalidRequest(
                f"'{where}.type' is '{kind[:40]}'; text and image_url are supported",
                param=f"{where}.type",
            )
    return text, tuple(images)


def _image(value: Any, param: str, offset: int) -> Image:
    if isinstance(value, str):
        return image_at(value, param, offset)
    fields = limits.as_object(value, param)
    return image_at(limits.as_text(fields.get("url"), f"{param}.url"), f"{param}.url", offset)


def _tool_calls(value: Any, param: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    calls = []
    for index, entry in enumerate(limits.as_list(value, param, limits.TOOL_COUNT_MAX)):
        where = f"{param}[{index}]"
        call = limits.as_object(entry, where)
        function = limits.as_object(call.get("function"), f"{where}.function")
        calls.append(
            ToolCall(
                call_id=limits.as_text(call.get("id") or "", f"{where}.id"),
                name=limits.as_text(function.get("name"), f"{where}.function.name"),
                arguments=limits.as_text(
                    function.get("arguments", "{}"), f"{where}.function.arguments"
                ),
            )
        )
    return tuple(calls)
