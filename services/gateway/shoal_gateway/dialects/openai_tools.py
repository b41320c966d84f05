"""Tools and the choice among them, as OpenAI's chat completions write them. Pure."""

from __future__ import annotations

from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.task import Tool, ToolChoice, ToolMode

MODES: dict[str, ToolMode] = {"none": "none", "auto": "auto", "required": "required"}


def tools_of(given: dict[str, Any]) -> tuple[Tool, ...]:
    """Raises InvalidRequest naming what is wrong."""
    entries = limits.as_list(given.get("tools", []), "tools", limits.TOOL_COUNT_MAX)
    return tuple(_tool(entry, f"tools[{index}]") for index, entry in enumerate(entries))


def _tool(entry: Any, param: str) -> Tool:
    fields = limits.as_object(entry, param)
    kind = limits.as_text(fields.get("type", "function"), f"{param}.type")
    if kind != "function":
        raise InvalidRequest(
            f"'{param}.type' is '{kind[:40]}'; only function tools are supported",
            param=f"{param}.type",
        )
    where = f"{param}.function"
    return function_tool(limits.as_object(fields.get("function"), where), where)


def function_tool(fields: dict[str, Any], param: str) -> Tool:
    """The fields of one function, wherever a dialect puts them."""
    name = limits.as_text(fields.get("name"), f"{param}.name")
    return Tool(
        name=limits.check_length(name, f"{param}.name", 1, 256),
        description=limits.as_text(fields.get("description") or "", f"{param}.description"),
        parameters=limits.as_object(fields.get("parameters") or {}, f"{param}.parameters"),
        is_strict=limits.as_boolean(fields.get("strict") or False, f"{param}.strict"),
    )


def choice_of(given: dict[str, Any], tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises InvalidRequest for a choice that no tool can meet."""
    value = given.get("tool_choice", "auto")
    if isinstance(value, str):
        if value not in MODES:
            raise InvalidRequest(
                "'tool_choice' must be none, auto, required or a function", param="tool_choice"
            )
        return checked_choice(ToolChoice(MODES[value]), tools)
    fields = limits.as_object(value, "tool_choice")
    function = limits.as_object(fields.get("function"), "tool_choice.function")
    name = limits.as_text(function.get("name"), "tool_choice.function.name")
    return checked_choice(ToolChoice("named", name), tools)


def checked_choice(choice: ToolChoice, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises InvalidRequest unless the tools can meet it."""
    if choice.mode == "named" and choice.name not in {tool.name for tool in tools}:
        raise InvalidRequest("'tool_choice' names a function not in 'tools'", param="tool_choice")
    if choice.mode == "required" and not tools:
        raise InvalidRequest("'tool_choice' asks for a call, but 'tools' is empty", "tool_choice")
    return choice
