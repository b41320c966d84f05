"""The items of OpenAI's responses: from a body to the stored form, and to messages. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.fields import image_at
from shoal_gateway.dialects.openai_messages import ROLES
from shoal_gateway.task import Image, Message, ToolCall

Item = dict[str, Any]

ITEM_ID_CHARS_MAX = 64
FILE_TYPES = (
    "application/json", "application/xml", "application/yaml", "application/x-yaml",
    "application/toml", "application/javascript", "application/x-ndjson", "application/csv",
)  # fmt: skip
STATUSES = ("in_progress", "completed", "incomplete")
_ITEM_ID = re.compile(r"[a-z]{2,3}_([0-9a-f]{32})[0-9a-f]{6}")
_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
_OUTPUT_PREFIX = "fco"


def item_id(prefix: str, response_id: str, index: int, is_output: bool) -> str:
    """Names an item so that its response can be told from it."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{is_output:02x}{index:04x}"


def response_of(name: str) -> str:
    """The response that made an item; "" for ids that nobody here has given."""
    match = _ITEM_ID.fullmatch(name)
    return "" if match is None else f"resp_{match[1]}"


def items_of(value: Any, response_id: str) -> tuple[Item, ...]:
    """The items of a body's `input`, whole and with ids. Raises InvalidRequest.

    References are left as {"type": "item_reference", "id"}.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise limits.wrong_type("input", "a string or an array of items", value)
    entries = limits.as_list(value, "input", limits.MESSAGE_COUNT_MAX)
    if not entries:
        raise InvalidRequest("'input' must hold at least one item", param="input")
    return tuple(
        _item(limits.as_object(entry, f"input[{index}]"), f"input[{index}]", response_id, index)
        for index, entry in enumerate(entries)
    )


def _item(given: Item, param: str, response_id: str, index: int) -> Item:
    kind = given.get("type")
    if kind is None:
        kind = "message" if "role" in given else "item_reference"
    kind = limits.as_text(kind, f"{param}.type")
    if kind == "item_reference":
        return {"type": kind, "id": _given_id(given, param, "")}
    if kind not in _READERS:
        known = ", ".join((*_READERS, "item_reference"))
        raise InvalidRequest(
            f"'{param}.type' is '{kind[:40]}'; items of these types are supported: {known}",
            param=f"{param}.type",
        )
    prefix = _PREFIXES.get(kind, _OUTPUT_PREFIX)
    name = _given_id(given, param, item_id(prefix, response_id, index, is_output=False))
    status = given.get("status") or "completed"
    if status not in STATUSES:
        raise InvalidRequest(
            f"'{param}.status' must be one of {', '.join(STATUSES)}", param=f"{param}.status"
        )
    return {"id": name, "type": kind, "status": status} | _READERS[kind](given, param)


def _given_id(given: Item, param: str, default: str) -> str:
    name = given.get("id") or default
    return limits.check_length(
        limits.as_text(name, f"{param}.id"), f"{param}.id", 1, ITEM_ID_CHARS_MAX
    )


def _message(given: Item, param: str) -> Item:
    role = limits.as_text(given.get("role"), f"{param}.role")
    if role not in ("user", "system", "developer", "assistant"):
        raise InvalidRequest(
            f"'{param}.role' must be one of user, system, developer, assistant",
            param=f"{param}.role",
        )
    content = given.get("content")
    if role == "assistant":
        return {"role": role, "content": _said(content, f"{param}.content")}
    return {"role": role, "content": _asked(content, f"{param}.content")}


def _said(value: Any, param: str) -> list[Item]:
    """What an assistant said earlier."""
    if isinstance(value, str):
        value = [{"type": "output_text", "text": value}]
    parts = []
    for where, kind, part in _parts(value, param):
        if kind in ("output_text", "input_text"):
            text = limits.as_text(part.get("text"), f"{where}.text")
            parts.append({"type": "output_text", "text": text, "annotations": []})
        elif kind == "refusal":
            refusal = limits.as_text(part.get("refusal"), f"{where}.refusal")
            parts.append({"type": kind, "refusal": refusal})
        else:
            raise _unknown_part(where, kind, "output_text and refusal")
    return parts


def _asked(value: Any, param: str) -> list[Item]:
    """Text, images and files for the model."""
    if isinstance(value, str):
        value = [{"type": "input_text", "text": value}]
    parts: list[Item] = []
    for where, kind, part in _parts(value, param):
        if kind in ("input_text", "output_text"):
            text = limits.as_text(part.get("text"), f"{where}.text")
            parts.append({"type": "input_text", "text": text})
        elif kind == "input_image":
            parts.append(_image(part, where))
        elif kind == "input_file":
            parts.append(_file(part, where))
        elif kind == "input_audio":
            raise InvalidRequest(
                f"'{where}' is audio, which no model here hears; send a transcript as input_text",
                param=where,
            )
        else:
            raise _unknown_part(where, kind, "input_text, input_image and input_file")
    return parts


def _parts(value: Any, param: str) -> Iterable[tuple[str, str, Item]]:
    if not isinstance(value, list):
        raise limits.wrong_type(param, "a string or an array of parts", value)
    for index, entry in enumerate(limits.as_list(value, param, limits.MESSAGE_COUNT_MAX)):
        where = f"{param}[{index}]"
        part = limits.as_object(entry, where)
        yield where, limits.as_text(part.get("type"), f"{where}.type"), part


def _unknown_part(where: str, kind: str, known: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{where}.type' is '{kind[:40]}'; {known} are supported", param=f"{where}.type"
    )


def _image(part: Item, where: str) -> Item:
    if part.get("file_id"):
        raise InvalidRequest(
            f"'{where}.file_id' names a stored file, and none are kept here; send 'image_url'",
            param=f"{where}.file_id",
        )
    url = limits.as_text(part.get("image_url"), f"{where}.image_url")
    image_at(url, f"{where}.image_url", 0)
    detail = limits.as_text(part.get("detail") or "auto", f"{where}.detail")
    return {"type": "input_image", "image_url": url, "detail": detail}


def _file(part: Item, where: str) -> Item:
    for name in ("file_id", "file_url"):
        if part.get(name):
            raise InvalidRequest(
                f"'{where}.{name}' is not supported: send the text as 'file_data'",
                param=f"{where}.{name}",
            )
    data = limits.as_text(part.get("file_data"), f"{where}.file_data")
    file_text(data, f"{where}.file_data")
    name = limits.as_text(part.get("filename") or "", f"{where}.filename")
    limits.check_length(name, f"{where}.filename", 0, 256)
    return {"type": "input_file", "filename": name, "file_data": data}


def file_text(data: str, param: str) -> str:
    """The text of a base64 data: URL. Raises InvalidRequest for what is no UTF-8 text."""
    head, comma, encoded = data.removeprefix("data:").partition(",")
    media_type, *parameters = head.lower().split(";")
    if not data.startswith("data:") or not comma or "base64" not in parameters:
        raise InvalidRequest(f"'{param}' must be a data: URL with base64", param=param)
    try:
        if not (media_type.startswith("text/") or media_type in FILE_TYPES):
            raise ValueError(media_type)
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError) as err:
        raise InvalidRequest(
            f"'{param}' must hold UTF-8 text, and its type is '{media_type[:60]}'; send images "
            "as input_image, and of other files their text",
            param=param,
        ) from err


def _function_call(given: Item, param: str) -> Item:
    name = limits.as_text(given.get("name"), f"{param}.name")
    return {
        "call_id": _call_id(given, param),
        "name": limits.check_length(name, f"{param}.name", 1, 256),
        "arguments": limits.as_text(given.get("arguments", "{}"), f"{param}.arguments"),
    }


def _function_call_output(given: Item, param: str) -> Item:
    output = given.get("output")
    if not isinstance(output, str):
        output = _asked(output, f"{param}.output")
    return {"call_id": _call_id(given, param), "output": output}


def _call_id(given: Item, param: str) -> str:
    value = limits.as_text(given.get("call_id"), f"{param}.call_id")
    return limits.check_length(value, f"{param}.call_id", 1, 256)


def _reasoning(given: Item, param: str) -> Item:
    item: Item = {"summary": _thoughts(given, param, "summary", "summary_text")}
    item["content"] = _thoughts(given, param, "content", "reasoning_text")
    if given.get("encrypted_content"):
        where = f"{param}.encrypted_content"
        item["encrypted_content"] = limits.as_text(given["encrypted_content"], where)
    return item


def _thoughts(given: Item, param: str, field: str, kind: str) -> list[Item]:
    parts = limits.as_list(given.get(field) or [], f"{param}.{field}", limits.MESSAGE_COUNT_MAX)
    found = []
    for index, entry in enumerate(parts):
        where = f"{param}.{field}[{index}]"
        text = limits.as_text(limits.as_object(entry, where).get("text"), f"{where}.text")
        found.append({"type": kind, "text": text})
    return found


_READERS: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}


def starts_of(items: Sequence[Item]) -> list[int]:
    """Positions behind the first at which a conversation may begin when its start is left out."""
    is_asked = [item.get("role") == "user" for item in items]
    return [index for index in range(1, len(items)) if is_asked[index]]


def cut_at(items: Sequence[Item], start: int) -> list[Item]:
    """The items from `start` on, and the instructions from before it."""
    kept = [item for item in items[:start] if item.get("role") in ("system", "developer")]
    return [*kept, *items[start:]]


def messages_of(items: Sequence[Item]) -> tuple[Message, ...]:
    """What the items say, as turns: thoughts, text and calls that follow one another are one."""
    turns = _Turns()
    for item in items:
        turns.add(item)
    return turns.whole()


class _Turns:
    """The assistant's open turn, and the messages before it."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._calls: list[ToolCall] = []
        self._reasoning = self._signature = self._text = ""

    def add(self, item: Item) -> None:
        kind = item["type"]
        if kind == "reasoning":
            self._think(item)
        elif kind == "function_call":
            self._calls.append(ToolCall(item["call_id"], item["name"], item["arguments"]))
        elif kind == "function_call_output":
            self._close()
            text, images = _content(item["output"])
            message = Message("tool", text, tool_call_id=item["call_id"], images=images)
            self._messages.append(message)
        elif item["role"] == "assistant":
            if self._text or self._calls:
                self._close()
            self._text, _ = _content(item["content"])
        else:
            self._close()
            text, images = _content(item["content"])
            self._messages.append(Message(ROLES[item["role"]], text, images=images))

    def whole(self) -> tuple[Message, ...]:
        self._close()
        return tuple(self._messages)

    def _think(self, item: Item) -> None:
        if self._text or self._calls:
            self._close()
        parts = item.get("content") or item.get("summary") or []
        self._reasoning += "".join(part["text"] for part in parts)
        # What another provider encrypted says nothing to ours.
        if response_of(item["id"]):
            self._signature = item.get("encrypted_content", "") or self._signature

    def _close(self) -> None:
        if self._text or self._calls or self._reasoning or self._signature:
            self._messages.append(
                Message(
                    "assistant",
                    self._text,
                    tool_calls=tuple(self._calls),
                    reasoning=self._reasoning,
                    signature=self._signature,
                )
            )
        self._calls = []
        self._reasoning = self._signature = self._text = ""


def _content(value: str | list[Item]) -> tuple[str, tuple[Image, ...]]:
    """Text and images of parts that were checked when they came in."""
    if isinstance(value, str):
        return value, ()
    text = ""
    images = []
    for part in value:
        kind = part["type"]
        if kind == "input_image":
            images.append(image_at(part["image_url"], "image_url", len(text)))
        elif kind == "input_file":
            name = part["filename"] or "file"
            text += f"[{name}]\n{file_text(part['file_data'], 'file_data')}\n"
        else:
            text += part["refusal"] if kind == "refusal" else part["text"]
    return text, tuple(images)
