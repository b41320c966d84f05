"""Parsing of chat bodies: what is accepted, and which field a refusal names."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.openai_chat import parse

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
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
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
        ("n", {"n": 2}),
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


def test_tool_choice_none_hides_the_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert parse({"messages": HELLO, "tools": tools, "tool_choice": "none"}).task.tools == ()


def test_a_negative_seed_is_taken_as_64_bits() -> None:
    assert parse({"messages": HELLO, "seed": -1}).task.sampling.seed == 2**64 - 1
