"""Demanded tool calls from the demo model: a gateway, a real engine, the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.e2e.fleet import Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    },
    {
        "type": "function",
        "function": {
            "name": "roll_dice",
            "parameters": {
                "type": "object",
                "properties": {"sides": {"type": "integer", "minimum": 2, "maximum": 20}},
                "required": ["sides"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    },
]
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(folder, models=["heavyweight"], workers=1, split=False) as fleet:
        yield fleet


def check(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert set(arguments) == {"city", "unit"}
        assert arguments["unit"] in ("celsius", "fahrenheit")
    else:
        assert call.function.name == "roll_dice"
        assert 2 <= arguments["sides"] <= 20


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_demanded_call_matches_its_schema(client: AsyncOpenAI, seed: int) -> None:
    async with client.chat.completions.stream(
        model="heavyweight",
        messages=ASKED,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        seed=seed,
        temperature=1.0,
        max_tokens=200,
    ) as stream:
        async for _ in stream:
            pass
        choice = (await stream.get_final_completion()).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls or ()
    check(call)


async def test_a_named_tool_is_the_one_that_is_called(client: AsyncOpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "roll_dice"}}
    reply = await client.chat.completions.create(
        model="heavyweight", messages=ASKED, tools=TOOLS, tool_choice=named, max_tokens=200
    )
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "roll_dice"
    check(call)
