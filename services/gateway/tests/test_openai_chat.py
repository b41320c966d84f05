"""Parsing of chat bodies: what is accepted, and which field a refusal names."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.openai_chat import parse
from shoal_gateway.task import Image, ToolChoice

HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": None}),
        ("messages", {"messages": "hi"}),
        ("messages[0]", {"messages": ["hi"]}),
        ("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        (
            "messages[0].content[0].type",
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        ),
        ("model", {"model": 7}),
        ("model", {"model": "m" * 257}),
        ("temperature", {"temperature": "hot"}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": True}),
        ("top_p", {"top_p": -0.1}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 32769}),
        ("max_tokens", {"max_tokens": 1.5}),
        ("max_completion_tokens", {"max_completion_tokens": "many"}),
        ("stop", {"stop": ["x"] * 17}),
        ("stop", {"stop": [""]}),
        ("stop", {"stop": "x" * 257}),
        ("stop", {"stop": 3}),
        ("tools", {"tools": [{}] * 129}),
        ("tools[0].function", {"tools": [{}]}),
        ("tool_choice", {"tool_choice": "maybe"}),
        ("n", {"n": 17}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("reasoning_effort", {"reasoning_effort": "heroic"}),
        ("seed", {"seed": "lucky"}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("presence_penalty", {"presence_penalty": 3}),
        ("logit_bias", {"logit_bias": {"word": 1}}),
        ("stream", {"stream": "yes"}),
        ("stream_options", {"stream_options": 1}),
        ("response_format", {"response_format": "json"}),
        ("response_format.type", {"response_format": {"type": "yaml"}}),
    ],
)
def test_a_wrong_field_is_named(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"messages": HELLO} | fields)
    assert caught.value.param == param
    assert str(caught.value)


def test_messages_are_required() -> None:
    with pytest.raises(InvalidRequest, match="required"):
        parse({})


def test_null_means_left_out() -> None:
    chat = parse({"messages": HELLO, "temperature": None, "stop": None, "tools": None})
    assert chat.task.sampling.temperature is None
    assert chat.task.stop == ()


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": "auto"}])
def test_auto_and_none_leave_the_model_open(model: dict[str, Any]) -> None:
    assert parse({"messages": HELLO} | model).task.model == ""


def test_limits_are_inclusive() -> None:
    chat = parse(
        {
            "messages": HELLO,
            "model": "m" * 256,
            "max_tokens": 32768,
            "temperature": 2,
            "stop": ["x" * 256] * 16,
            "tools": [{"type": "function", "function": {"name": "f"}}] * 128,
            "logprobs": True,
            "top_logprobs": 20,
        }
    )
    assert chat.task.max_tokens == 32768
    assert len(chat.task.tools) == 128


def test_the_newer_name_of_the_token_limit_wins() -> None:
    body = {"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 6}
    assert parse(body).task.max_tokens == 6


def test_a_named_tool_is_the_choice() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    choice = {"type": "function", "function": {"name": "f"}}
    task = parse({"messages": HELLO, "tools": tools, "tool_choice": choice}).task
    assert task.tool_choice == ToolChoice("named", "f")
    assert [tool.name for tool in task.tools] == ["f"]


def test_an_effort_or_a_template_switch_asks_for_thinking() -> None:
    assert parse({"messages": HELLO, "reasoning_effort": "low"}).task.thinking.level == "low"
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert parse({"messages": HELLO} | off).task.thinking.level == "off"


def test_images_keep_their_place_in_the_text() -> None:
    url = "data:image/png;base64,aGk="
    parts = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "?"},
    ]
    message = parse({"messages": [{"role": "user", "content": parts}]}).task.messages[0]
    assert message.text == "see?"
    assert message.images == (Image("image/png", b"hi", offset=3),)


def test_a_negative_seed_is_taken_as_64_bits() -> None:
    assert parse({"messages": HELLO, "seed": -1}).task.sampling.seed == 2**64 - 1
