"""Formats asked of the reply: what is accepted, what reaches the engine, how a refusal returns."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from shoal.common.v1 import chat_pb2
from shoal_common.errors import InvalidGrammar, InvalidRequest
from shoal_gateway.dialects.openai_chat import parse
from shoal_gateway.task import ReplyFormat

HELLO: Any = [{"role": "user", "content": "hi"}]
KEY = "k" * 64
SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


def json_schema(**fields: Any) -> dict[str, Any]:
    named = {"name": "size", "schema": SCHEMA} | fields
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def deep(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format", {"response_format": []}),
        ("response_format.type", {"response_format": {}}),
        ("response_format.type", {"response_format": {"type": "grammar"}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        ("response_format.json_schema.name", json_schema(name="")),
        ("response_format.json_schema.name", json_schema(name="two words")),
        ("response_format.json_schema.strict", json_schema(strict="yes")),
        ("response_format.json_schema.schema", json_schema(schema="{}")),
        ("response_format.json_schema.schema", json_schema(schema={"title": "x" * 70_000})),
        ("response_format.json_schema.schema", json_schema(schema=deep(100_000))),
        ("guided_regex", {"guided_regex": ""}),
        ("guided_regex", {"guided_regex": "x" * 8193}),
        ("guided_choice", {"guided_choice": []}),
        ("guided_choice", {"guided_choice": ["yes", 1]}),
        ("guided_choice", {"guided_choice": ["yes", ""]}),
        ("guided_choice", {"guided_choice": ["x"] * 1001}),
        ("guided_choice", {"guided_choice": ["x"], "guided_regex": "x"}),
        ("guided_regex", {"guided_regex": "x"} | json_schema()),
    ],
)
def test_a_wrong_format_is_named(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"messages": HELLO} | fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_object"}},
            ReplyFormat("json_object", "response_format"),
        ),
        (json_schema(schema=None), ReplyFormat("json_object", "response_format")),
        (
            json_schema(strict=True, description="a size"),
            ReplyFormat(
                "json_schema",
                "response_format",
                '{"type":"object","properties":{"größe":{"type":"integer"}}}',
            ),
        ),
        ({"guided_regex": "a+"}, ReplyFormat("regex", "guided_regex", "a+")),
        (
            {"guided_choice": ["b", "a"]},
            ReplyFormat("choice", "guided_choice", choices=("b", "a")),
        ),
    ],
)
def test_formats_are_read(fields: dict[str, Any], expected: ReplyFormat | None) -> None:
    assert parse({"messages": HELLO} | fields, is_strict=True).task.reply_format == expected


@pytest.fixture
def client(fleet: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"response_format": {"type": "json_object"}},
            chat_pb2.GrammarSpec(json_object=True),
        ),
        (
            json_schema(),
            chat_pb2.GrammarSpec(
                json_schema='{"type":"object","properties":{"größe":{"type":"integer"}}}'
            ),
        ),
        ({"guided_regex": "a+"}, chat_pb2.GrammarSpec(regex="a+")),
        (
            {"guided_choice": ["b", "a"]},
            chat_pb2.GrammarSpec(choice=chat_pb2.Choices(texts=["b", "a"])),
        ),
    ],
)
async def test_the_engine_is_told(
    fleet: Any, client: AsyncOpenAI, fields: dict[str, Any], expected: chat_pb2.GrammarSpec
) -> None:
    fleet.says("{}")
    async with client:
        await client.chat.completions.create(model="heavyweight", messages=HELLO, extra_body=fields)
        await client.chat.completions.create(model="heavyweight", messages=HELLO)
    assert fleet.stage.requests[0].grammar == expected
    assert not fleet.stage.requests[1].HasField("grammar")


async def test_a_reply_cut_off_says_so(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says(json.dumps({"a": list(range(50))}))
    async with client:
        answer = await client.chat.completions.create(
            model="heavyweight",
            messages=HELLO,
            response_format={"type": "json_object"},
            max_tokens=8,
        )
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [(json_schema(), "response_format"), ({"guided_regex": "("}, "guided_regex")],
)
async def test_what_the_engine_refuses_is_the_clients_fault(
    fleet: Any, client: AsyncOpenAI, is_stream: bool, fields: dict[str, Any], param: str
) -> None:
    """400 with the reason before any text, and no second attempt elsewhere."""
    fleet.stage.refusal = InvalidGrammar("no text matches it")
    async with client:
        with pytest.raises(openai.BadRequestError, match="no text matches it") as caught:
            await client.chat.completions.create(
                model="heavyweight", messages=HELLO, stream=is_stream, extra_body=fields
            )
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param
    assert caught.value.code == "invalid_grammar"
    assert fleet.router.lost == []
