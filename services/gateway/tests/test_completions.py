"""The older completions route as OpenAI's own client sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

KEY = "k" * 64


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


async def test_a_prompt_reaches_the_model_without_a_template(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says("three four")
    answer = await client.completions.create(model="heavyweight", prompt="one two")
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "three four"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    request = fleet.stage.requests[0]
    assert list(request.token_ids.ids) == fleet.tokens.encode("one two")
    assert request.max_tokens == 16, "what the API promises where none is asked for"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(request.token_ids.ids)


async def test_token_ids_are_taken_as_they_are(fleet: Any, client: AsyncOpenAI) -> None:
    await client.completions.create(model="auto", prompt=[7, 8, 9])
    await client.completions.create(model="auto", prompt=[[7], [8, 9]])
    given = [list(request.token_ids.ids) for request in fleet.stage.requests]
    assert given[0] == [7, 8, 9]
    assert sorted(given[1:]) == [[7], [8, 9]]


async def test_every_prompt_has_its_choices_in_order(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("five")
    answer = await client.completions.create(
        model="auto", prompt=["one two", "three"], n=2, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [
        "one twofive", "one twofive", "threefive", "threefive",
    ]  # fmt: skip
    assert answer.usage is not None
    prompts = {tuple(request.token_ids.ids) for request in fleet.stage.requests}
    assert answer.usage.prompt_tokens == sum(len(prompt) for prompt in prompts)
    assert answer.usage.completion_tokens == 4 * (len(fleet.stage.reply_ids) + 1)


async def test_a_stream_says_the_same_as_the_whole(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("fish 🦈 swim")
    stream = await client.completions.create(
        model="auto",
        prompt=["a", "b"],
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts = {0: "", 1: ""}
    reasons = []
    chunks = [chunk async for chunk in stream]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
        reasons += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
    assert texts == {0: "afish 🦈 swim", 1: "bfish 🦈 swim"}
    assert reasons == ["stop", "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2 * (len(fleet.stage.reply_ids) + 1)


async def test_logprobs_are_columns_with_offsets(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("ok 🦈")
    answer = await client.completions.create(model="auto", prompt="a", logprobs=2)
    table = answer.choices[0].logprobs
    assert table is not None
    assert table.tokens is not None
    assert table.text_offset is not None
    assert table.top_logprobs is not None
    assert len(table.tokens) == len(fleet.stage.reply_ids)
    assert table.tokens[0] == "ok"
    assert any(token.startswith("bytes:\\x") for token in table.tokens), "halves of a character"
    assert table.text_offset[0] == 0
    assert table.text_offset == sorted(table.text_offset)
    assert table.text_offset[-1] <= len("ok 🦈")
    assert all(len(top) == 2 for top in table.top_logprobs)
    assert table.token_logprobs == pytest.approx([-0.5] * len(table.tokens))


async def test_stop_strings_and_limits_hold(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three four five")
    cut = await client.completions.create(model="auto", prompt="a", stop=" three")
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("one two", "stop")
    short = await client.completions.create(model="auto", prompt="a", max_tokens=2)
    assert short.choices[0].finish_reason == "length"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt[0]"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [999_999]}, "prompt"),
    ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": ["a", "b"], "n": 9}, "n"),
    ({"prompt": "a", "n": 2, "best_of": 3}, "best_of"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
    ({"prompt": [1], "echo": True}, "echo"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "logprobs": True}, "logprobs"),
    ({"prompt": "fish " * 2000}, "prompt"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
async def test_what_cannot_be_done_is_refused_by_name(
    fleet: Any, client: AsyncOpenAI, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/completions", body={"model": "auto"} | body, cast_to=object)
    assert caught.value.param == param
    assert fleet.stage.requests == []
