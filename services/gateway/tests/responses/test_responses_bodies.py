"""Bodies of responses: what they become, and which field of a wrong one is named."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.responses import ResponsesRequest, parse
from shoal_gateway.dialects.responses_items import item_id, response_of
from shoal_gateway.dialects.responses_options import check_ingress
from shoal_gateway.task import Thinking, ToolChoice

RESPONSE_ID = f"resp_{'a' * 32}"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
OTHER = {"type": "function", "name": "g"}


def parsed(is_strict: bool = False, **fields: Any) -> ResponsesRequest:
    return parse({"model": "m", "input": "hi"} | fields, RESPONSE_ID, is_strict)


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def text_file(data: bytes, media_type: str = "text/plain") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"type": "message", "role": "tool", "content": ""}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "status": "odd"}]}, "input[0].status"),
        ({"input": [{"role": "user", "content": "x", "id": "i" * 65}]}, "input[0].id"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "reasoning", "summary": [1]}]}, "input[0].summary[0]"),
        ({"input": user({"type": "input_audio"})}, "input[0].content[0]"),
        ({"input": user({"type": "odd"})}, "input[0].content[0].type"),
        ({"input": user({"type": "input_text"})}, "input[0].content[0].text"),
        ({"input": user({"type": "input_image"})}, "input[0].content[0].image_url"),
        (
            {"input": user({"type": "input_image", "image_url": "ftp://x"})},
            "input[0].content[0].image_url",
        ),
        (
            {"input": user({"type": "input_image", "file_id": "f"})},
            "input[0].content[0].file_id",
        ),
        ({"input": user({"type": "input_file", "file_id": "f"})}, "input[0].content[0].file_id"),
        (
            {"input": user({"type": "input_file", "file_url": "https://x"})},
            "input[0].content[0].file_url",
        ),
        (
            {"input": user({"type": "input_file", "file_data": "plain"})},
            "input[0].content[0].file_data",
        ),
        (
            {
                "input": user(
                    {"type": "input_file", "file_data": text_file(b"%PDF", "application/pdf")}
                )
            },
            "input[0].content[0].file_data",
        ),
        (
            {"input": user({"type": "input_file", "file_data": text_file(b"\xff")})},
            "input[0].content[0].file_data",
        ),
        ({"stream": "yes"}, "stream"),
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "computer_use_preview"}]}, "tools[0].type"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "custom", "name": "x"}]}, "tools[1].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [OTHER]}},
            "tool_choice.tools",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [TOOL]},
            },
            "tool_choice.mode",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"reasoning": {"effort": "some"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["all"]}, "include[0]"),
        ({"include": [[]]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"safety_identifier": "s" * 257}, "safety_identifier"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": 3}, "model"),
        ({"instructions": "i" * (2 * 1024 * 1024 + 1)}, "instructions"),
        ({"user": "u" * 257}, "user"),
        ({"truncation": "t" * 65}, "truncation"),
        ({"service_tier": "t" * 65}, "service_tier"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"previous_response_id": "r" * 65}, "previous_response_id"),
        ({"previous_response_id": "resp_ä"}, "previous_response_id"),
        ({"previous_response_id": "resp_1\n"}, "previous_response_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 65536}}, "metadata"),
        ({"metadata": {"k" * 65537: ""}}, "metadata"),
        ({"metadata": []}, None),
    ],
)
def test_what_is_too_long_is_refused_at_the_door(body: dict[str, Any], param: str | None) -> None:
    if param is None:
        # As clients send an empty one.
        check_ingress(body)
        return
    with pytest.raises(InvalidRequest) as caught:
        check_ingress(body)
    assert caught.value.param == param


def test_what_is_just_short_enough_passes() -> None:
    check_ingress(
        {
            "model": "m" * 256,
            "instructions": "i" * (2 * 1024 * 1024),
            "user": "u" * 256,
            "previous_response_id": "r" * 64,
            "metadata": {"k" * 36: "v" * 65500},
        }
    )


def test_unknown_fields_are_kept_or_refused() -> None:
    assert parsed(novel=1).base.extras == {"novel": 1}
    with pytest.raises(InvalidRequest, match="novel"):
        parsed(is_strict=True, novel=1)


def test_effort_none_turns_thinking_off() -> None:
    assert parsed(reasoning={"effort": "none"}).base.thinking == Thinking("off")
    assert parsed(reasoning={"effort": "high"}).base.thinking == Thinking("high")
    assert parsed().base.thinking == Thinking()


def test_allowed_tools_leave_the_others_out() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [OTHER]}
    asked = parsed(tools=[TOOL, OTHER], tool_choice=choice)
    assert [tool.name for tool in asked.base.tools] == ["g"]
    assert asked.base.tool_choice == ToolChoice("required")
    assert [tool["name"] for tool in asked.echo["tools"]] == ["f", "g"]
    assert asked.echo["tool_choice"] == choice


def test_a_function_is_chosen_by_name() -> None:
    asked = parsed(tools=[TOOL, OTHER], tool_choice={"type": "function", "name": "g"})
    assert asked.base.tool_choice == ToolChoice("named", "g")


def test_a_schema_becomes_the_format_of_the_reply() -> None:
    shape = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    found = parsed(text={"format": shape}).base.reply_format
    assert found is not None
    assert (found.kind, found.param, found.text) == (
        "json_schema", "text.format", '{"type":"object"}'
    )  # fmt: skip
    assert parsed(text={"format": {"type": "text"}}).base.reply_format is None
    assert parsed(text={"format": {"type": "json_object"}}).base.reply_format is not None


def test_thoughts_text_and_calls_are_one_turn() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"role": "assistant", "content": "let me see"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
    ]
    asked = parsed(input=items)
    messages = asked.task(asked.items).messages
    assert [(m.role, m.text, len(m.tool_calls), m.reasoning) for m in messages] == [
        ("user", "q", 0, ""),
        ("assistant", "let me see", 2, "hm"),
        ("tool", "1", 0, ""),
        ("tool", "2", 0, ""),
        ("assistant", "no", 0, ""),
        ("assistant", "yes", 0, ""),
    ]


def test_items_say_which_response_made_them() -> None:
    name = item_id("msg", RESPONSE_ID, 3, is_output=True)
    assert response_of(name) == RESPONSE_ID
    assert response_of("msg_foreign") == ""
    assert len({item["id"] for item in parsed(input=user() * 3).items}) == 3


def test_thoughts_that_another_encrypted_are_left_out() -> None:
    own = item_id("rs", RESPONSE_ID, 0, is_output=True)
    for name, signature in ((own, "secret"), ("rs_68af", "")):
        items = [
            {"type": "reasoning", "id": name, "summary": [], "encrypted_content": "secret"},
            {"role": "assistant", "content": "x"},
        ]
        asked = parsed(input=items)
        (message,) = asked.task(asked.items).messages
        assert message.signature == signature
