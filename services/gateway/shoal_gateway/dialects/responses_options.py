"""Tools, format and limits of OpenAI's responses. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.openai_tools import MODES, checked_choice, function_tool
from shoal_gateway.task import ReplyFormat, Tool, ToolChoice

INSTRUCTIONS_CHARS_MAX = 2 * 1024 * 1024
PREVIOUS_ID_CHARS_MAX = 64
USER_CHARS_MAX = 256
WORD_CHARS_MAX = 64
METADATA_CHARS_MAX = 64 * 1024
_RESPONSE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_ingress(body: dict[str, Any]) -> None:
    """Refuse what is too long to be handed to anyone, before it is known who answers."""
    lengths = {
        "model": (1, limits.MODEL_NAME_CHARS_MAX),
        "instructions": (0, INSTRUCTIONS_CHARS_MAX),
        "user": (0, USER_CHARS_MAX),
        "truncation": (0, WORD_CHARS_MAX),
        "service_tier": (0, WORD_CHARS_MAX),
    }
    for param, (least, most) in lengths.items():
        if body.get(param) is not None:
            limits.check_length(limits.as_text(body[param], param), param, least, most)
    if body.get("previous_response_id") is not None:
        param = "previous_response_id"
        if not is_response_id(limits.as_text(body[param], param)):
            raise InvalidRequest(
                f"'{param}' must be 1 to {PREVIOUS_ID_CHARS_MAX} letters, digits, dashes or "
                "underscores",
                param=param,
            )
    metadata_of(body)


def is_response_id(value: str) -> bool:
    """Whether it could be the id of a response."""
    return _RESPONSE_ID.fullmatch(value) is not None


def metadata_of(given: dict[str, Any]) -> dict[str, str]:
    """Texts by name, of bounded size together."""
    table = limits.as_object(given.get("metadata") or {}, "metadata")
    pairs = {key: limits.as_text(value, f"metadata.{key[:64]}") for key, value in table.items()}
    length = sum(len(key) + len(value) for key, value in pairs.items())
    if length > METADATA_CHARS_MAX:
        raise InvalidRequest(
            f"'metadata' has {length} characters in all; the limit is {METADATA_CHARS_MAX}",
            param="metadata",
        )
    return pairs


def tools_of(given: dict[str, Any]) -> tuple[Tool, ...]:
    """Functions only: what runs elsewhere at OpenAI has nobody here to run it."""
    entries = limits.as_list(given.get("tools", []), "tools", limits.TOOL_COUNT_MAX)
    return tuple(_tool(entry, f"tools[{index}]") for index, entry in enumerate(entries))


def _tool(entry: Any, param: str) -> Tool:
    fields = limits.as_object(entry, param)
    kind = limits.as_text(fields.get("type"), f"{param}.type")
    if kind != "function":
        raise InvalidRequest(
            f"'{param}.type' is '{kind[:40]}', a tool that nothing runs here; give a function "
            "tool and run it yourself, or name a model of a provider that runs it",
            param=f"{param}.type",
        )
    return function_tool(fields, param)


def choice_of(
    given: dict[str, Any], tools: tuple[Tool, ...]
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools that it leaves."""
    value = given.get("tool_choice", "auto")
    if isinstance(value, str):
        if value not in MODES:
            raise InvalidRequest(
                "'tool_choice' must be none, auto, required or an object", param="tool_choice"
            )
        return checked_choice(ToolChoice(MODES[value]), tools), tools
    fields = limits.as_object(value, "tool_choice")
    kind = limits.as_text(fields.get("type"), "tool_choice.type")
    if kind == "function":
        name = limits.as_text(fields.get("name"), "tool_choice.name")
        return checked_choice(ToolChoice("named", name), tools), tools
    if kind == "allowed_tools":
        return _allowed(fields, tools)
    raise InvalidRequest(
        f"'tool_choice.type' is '{kind[:40]}'; function and allowed_tools are supported",
        param="tool_choice.type",
    )


def _allowed(
    fields: dict[str, Any], tools: tuple[Tool, ...]
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    mode = limits.as_text(fields.get("mode", "auto"), "tool_choice.mode")
    if mode not in ("auto", "required"):
        raise InvalidRequest(
            "'tool_choice.mode' must be auto or required", param="tool_choice.mode"
        )
    entries = limits.as_list(fields.get("tools"), "tool_choice.tools", limits.TOOL_COUNT_MAX)
    names = set()
    for index, entry in enumerate(entries):
        where = f"tool_choice.tools[{index}]"
        names.add(limits.as_text(limits.as_object(entry, where).get("name"), f"{where}.name"))
    if missing := sorted(names - {tool.name for tool in tools}):
        raise InvalidRequest(
            f"'tool_choice' allows '{missing[0][:80]}', which is not in 'tools'",
            param="tool_choice.tools",
        )
    left = tuple(tool for tool in tools if tool.name in names)
    return checked_choice(ToolChoice(MODES[mode]), left), left


def format_of(text: dict[str, Any]) -> ReplyFormat | None:
    """What `text.format` asks for; None for free text."""
    param = "text.format"
    fields = limits.as_object(text.get("format") or {"type": "text"}, param)
    kind = limits.as_text(fields.get("type"), f"{param}.type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ReplyFormat("json_object", param)
    if kind != "json_schema":
        raise InvalidRequest(
            f"'{param}.type' must be one of text, json_object, json_schema", param=f"{param}.type"
        )
    name = limits.as_text(fields.get("name"), f"{param}.name")
    if _SCHEMA_NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"'{param}.name' must be 1 to 64 letters, digits, dashes or underscores",
            param=f"{param}.name",
        )
    if fields.get("strict") is not None:
        limits.as_boolean(fields["strict"], f"{param}.strict")
    schema = limits.as_object(fields.get("schema"), f"{param}.schema")
    # It came as JSON and was written as such once already, so its depth is no danger.
    content = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    limits.check_length(content, f"{param}.schema", 0, limits.SCHEMA_CHARS_MAX)
    return ReplyFormat("json_schema", param, content, name=name)
