"""Tools and thoughts over HTTP, as the official client's accumulator reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from shoal_common.errors import InvalidGrammar

KEY = "k" * 64
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CLOCK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}},
]
ASKED: Any = [{"role": "user", "content": "Weather?"}]
THINKING_TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% else %}<think>{% endif %}"
)


def client_of(fleet: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(fleet) as client:
        yield client


async def whole(client: AsyncOpenAI, **fields: Any) -> Any:
    values = {"model": "auto", "messages": ASKED} | fields
    return (await client.chat.completions.create(**values)).choices[0]


async def streamed(client: AsyncOpenAI, **fields: Any) -> Any:
    values = {"model": "auto", "messages": ASKED} | fields
    async with client.chat.completions.stream(**values) as stream:
        async for _ in stream:
            pass
        return (await stream.get_final_completion()).choices[0]


BOTH_WAYS = pytest.mark.parametrize("ask", [whole, streamed])


@BOTH_WAYS
async def test_calls_reach_the_client(fleet: Any, client: AsyncOpenAI, ask: Callable) -> None:
    fleet.says(f"{CALL}\n{CLOCK}")
    choice = await ask(client, tools=TOOLS)
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    first, second = choice.message.tool_calls
    assert (first.function.name, first.function.arguments) == ("get_weather", '{"city": "Paris"}')
    assert (second.function.name, second.function.arguments) == ("clock", "{}")
    assert first.id.startswith("call_")
    assert first.id != second.id


@BOTH_WAYS
async def test_text_beside_a_call_is_kept(fleet: Any, client: AsyncOpenAI, ask: Callable) -> None:
    fleet.says(f"Let me look. {CALL}")
    choice = await ask(client, tools=TOOLS)
    assert choice.message.content == "Let me look. "
    assert len(choice.message.tool_calls) == 1


@BOTH_WAYS
async def test_a_bad_call_is_text(fleet: Any, client: AsyncOpenAI, ask: Callable) -> None:
    for text in (CALL.replace("get_weather", "nobody"), CALL.replace('"arguments"', '"nothing"')):
        fleet.says(text)
        choice = await ask(client, tools=TOOLS)
        assert choice.message.content == text
        assert not choice.message.tool_calls
        assert choice.finish_reason == "stop"


async def test_a_call_that_is_cut_off_says_so(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says(CALL)
    ids = fleet.stage.reply_ids
    text = fleet.tokens.tokenizer.decode
    names = next(n for n in range(len(ids)) if '"name"' in text(ids[:n]))
    begun = next(n for n in range(len(ids)) if "Paris" in text(ids[:n]))
    choice = await whole(client, tools=TOOLS, max_tokens=names)
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith("<tool_call>")
    choice = await whole(client, tools=TOOLS, max_tokens=begun)
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Paris'


async def test_only_one_call_where_parallel_ones_are_refused(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says(f"{CALL}\n{CLOCK}")
    # The second call never comes, and nobody waits for it.
    fleet.stage.hold = len(fleet.tokens.encode(CALL)) + 2
    choice = await streamed(client, tools=TOOLS, parallel_tool_calls=False)
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]
    assert choice.finish_reason == "tool_calls"
    await fleet.router.is_closed.wait()


async def test_a_call_survives_the_loss_of_a_stage(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says(CALL)
    fleet.stage.fail_at = [len(fleet.stage.reply_ids) - 3]
    fleet.router.plan_count = 2
    choice = await streamed(client, tools=TOOLS)
    assert [c.function.arguments for c in choice.message.tool_calls] == ['{"city": "Paris"}']


async def test_demanded_calls_are_a_grammar(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says(CALL)
    await whole(client, tools=TOOLS)
    await whole(client, tools=TOOLS, tool_choice="required")
    named: Any = {"type": "function", "function": {"name": "clock"}}
    await whole(client, tools=TOOLS, tool_choice=named)
    free, required, one = fleet.stage.requests
    assert not free.HasField("grammar")
    assert "get_weather" in required.grammar.lark
    assert "clock" in required.grammar.lark
    assert "get_weather" not in one.grammar.lark


async def test_tools_that_no_grammar_can_hold_are_named(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.stage.refusal = InvalidGrammar("unsatisfiable schema")
    with pytest.raises(openai.BadRequestError) as caught:
        await whole(client, tools=TOOLS, tool_choice="required")
    assert caught.value.param == "tools"


async def test_hidden_tools_are_neither_shown_nor_called(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says(CALL)
    choice = await whole(client, tools=TOOLS, tool_choice="none")
    assert choice.message.content == CALL
    prompt = fleet.tokens.tokenizer.decode(fleet.stage.requests[0].token_ids.ids)
    assert "get_weather" not in prompt


async def test_calls_and_results_of_earlier_turns_are_rendered(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says(CALL)
    choice = await whole(client, tools=TOOLS)
    call = choice.message.tool_calls[0]
    fleet.says("18 degrees")
    result = {"role": "tool", "tool_call_id": call.id, "content": "18"}
    messages = [*ASKED, choice.message.model_dump(exclude_none=True), result]
    assert (await whole(client, messages=messages, tools=TOOLS)).message.content == "18 degrees"
    ids = fleet.stage.requests[1].token_ids.ids
    assert CALL in fleet.tokens.tokenizer.decode(ids)


@BOTH_WAYS
async def test_thoughts_have_a_field_of_their_own(start_fleet: Any, ask: Callable) -> None:
    async with start_fleet(template=THINKING_TEMPLATE) as fleet, client_of(fleet) as client:
        fleet.says("I think so.</think>\n\nYes.")
        choice = await ask(client, stop=["think"])
        assert choice.message.content == "Yes."
        assert choice.message.reasoning_content == "I think so."


async def test_thoughts_are_counted(start_fleet: Any) -> None:
    async with start_fleet(template=THINKING_TEMPLATE) as fleet, client_of(fleet) as client:
        fleet.says("I think so.</think>\n\nYes.")
        thought = len(fleet.tokens.encode("I think so."))
        reply = await client.chat.completions.create(model="auto", messages=ASKED)
        details = reply.usage and reply.usage.completion_tokens_details
        assert details
        # The mark is several tokens of this vocabulary, of which the last one ends it.
        mark = len(fleet.tokens.encode("</think>")) - 1
        assert thought <= (details.reasoning_tokens or 0) <= thought + mark


@pytest.mark.parametrize(
    ("mode", "content"), [("off", "Yes."), ("preserve", "I think so.</think>\n\nYes.")]
)
async def test_thoughts_may_be_left_out_or_left_in(
    mode: str, content: str, start_fleet: Any
) -> None:
    async with (
        start_fleet(template=THINKING_TEMPLATE, reasoning_mode=mode) as fleet,
        client_of(fleet) as client,
    ):
        fleet.says("I think so.</think>\n\nYes.")
        choice = await whole(client)
        assert choice.message.content == content
        assert not hasattr(choice.message, "reasoning_content")


async def test_a_reply_whose_thoughts_the_template_closed_has_none(start_fleet: Any) -> None:
    async with start_fleet(template=THINKING_TEMPLATE) as fleet, client_of(fleet) as client:
        fleet.says("Yes.")
        choice = await whole(client, reasoning_effort="none")
        assert choice.message.content == "Yes."


async def test_a_level_that_a_model_lacks_becomes_its_nearest(start_fleet: Any) -> None:
    efforts, switch = "{{ reasoning_effort }}", "{{ reasoning_effort }} {{ enable_thinking }}"
    for template, shown in (
        (efforts, {"none": "low", "minimal": "low", "medium": "medium", "xhigh": "high"}),
        (switch, {"none": "False", "high": "high True"}),
    ):
        async with start_fleet(template=template) as fleet, client_of(fleet) as client:
            for effort, prompt in shown.items():
                await whole(client, reasoning_effort=effort)
                ids = fleet.stage.requests[-1].token_ids.ids
                assert fleet.tokens.tokenizer.decode(ids).strip() == prompt


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("llama3", '{"name": "get_weather", "parameters": {"city": "Paris"}}'),
        ("mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]'),
        ("json", '{"name": "get_weather", "arguments": {"city": "Paris"}}'),
    ],
)
async def test_the_format_can_be_named(mode: str, text: str, start_fleet: Any) -> None:
    async with start_fleet(tool_mode=mode) as fleet, client_of(fleet) as client:
        fleet.says(text)
        choice = await streamed(client, tools=TOOLS)
        assert choice.message.tool_calls[0].function.arguments == '{"city": "Paris"}'


async def test_calls_stay_text_with_the_mode_off(start_fleet: Any) -> None:
    async with start_fleet(tool_mode="off") as fleet, client_of(fleet) as client:
        fleet.says(CALL)
        choice = await whole(client, tools=TOOLS)
        assert choice.message.content == CALL
        prompt = fleet.tokens.tokenizer.decode(fleet.stage.requests[0].token_ids.ids)
        assert "get_weather" in prompt
