"""Tools and the choice among them, as Anthropic's messages write them. Pure."""

from __future__ import annotations

from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.anthropic_content import cache_ttl
from shoal_gateway.dialects.openai_tools import checked_choice
from shoal_gateway.task import Tool, ToolChoice, ToolMode

TOOL_NAME_CHARS_MAX = 128
MODES: dict[str, ToolMode] = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def tools_of(given: dict[str, Any]) -> tuple[Tool, ...]:
    """Raises InvalidRequest naming what is wrong."""
    entries = limits.as_list(given.get("tools", []), "tools", limits.TOOL_COUNT_MAX)
    tools: dict[str, Tool] = {}
    for index, entry in enumerate(entries):
        tool = _tool(fields.present(limits.as_object(entry, f"tools[{index}]")), f"tools[{index}]")
        if tool.name in tools:
            raise InvalidRequest(
                f"'tools[{index}].name' is taken by an earlier tool", param=f"tools[{index}].name"
            )
        tools[tool.name] = tool
    return tuple(tools.values())


def _tool(given: dict[str, Any], param: str) -> Tool:
    kind = limits.as_text(given.get("type", "custom"), f"{param}.type")
    if kind != "custom":
        raise InvalidRequest(
            f"'{param}.type' is '{kind[:60]}', a tool of Anthropic's own, which this endpoint "
            "cannot run; offer a custom tool with an input_schema instead",
            param=f"{param}.type",
        )
    name = limits.as_text(given.get("name"), f"{param}.name")
    return Tool(
        name=limits.check_length(name, f"{param}.name", 1, TOOL_NAME_CHARS_MAX),
        description=limits.as_text(given.get("description", ""), f"{param}.description"),
        parameters=limits.as_object(given.get("input_schema"), f"{param}.input_schema"),
        is_strict=limits.as_boolean(given.get("strict", False), f"{param}.strict"),
        cache_ttl=cache_ttl(given, param),
    )


def choice_of(given: dict[str, Any], tools: tuple[Tool, ...]) -> tuple[ToolChoice, bool]:
    """The choice, and whether several calls may come at once."""
    asked = fields.present(limits.as_object(given.get("tool_choice", {}), "tool_choice"))
    if not asked:
        return ToolChoice(), True
    kind = limits.as_text(asked.get("type"), "tool_choice.type")
    if kind not in MODES:
        raise InvalidRequest(
            f"'tool_choice.type' must be one of {', '.join(MODES)}", param="tool_choice.type"
        )
    param = "tool_choice.disable_parallel_tool_use"
    is_single = limits.as_boolean(asked.get("disable_parallel_tool_use", False), param)
    name = limits.as_text(asked.get("name"), "tool_choice.name") if kind == "tool" else ""
    return checked_choice(ToolChoice(MODES[kind], name), tools), not is_single
