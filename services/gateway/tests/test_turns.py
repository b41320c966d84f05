"""Conversations whose turns a model's template refuses, and what becomes of them."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from shoal_gateway.conversation import alternatives
from shoal_gateway.task import Image, Message, ToolCall

# As Mistral's templates are: turns must alternate, results of tools aside.
ALTERNATING = """\
{%- if messages[0].role == 'system' -%}{{ messages[0].content }}
{% set messages = messages[1:] %}{%- endif -%}
{%- set ns = namespace(index=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) -%}
{%- if (message.role == 'user') != (ns.index % 2 == 0) -%}
{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}{%- set ns.index = ns.index + 1 -%}{%- endif -%}
[{{ message.role }}]{{ message.content }}
{%- for call in message.tool_calls or [] -%}({{ call.function.name }}){%- endfor -%}
{%- endfor -%}"""
# As Gemma's are.
NO_SYSTEM = (
    """\
{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}
"""
    + ALTERNATING
)


def said(*turns: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, _, text in (t.partition(":") for t in turns)]


@pytest.mark.parametrize(
    ("template", "messages", "prompt"),
    [
        (ALTERNATING, said("user:a", "assistant:b", "user:c"), "[user]a[assistant]b[user]c"),
        (ALTERNATING, said("user:a", "user:b"), "[user]a\n\nb"),
        (
            ALTERNATING,
            said("system:s", "system:t", "user:a", "assistant:b", "assistant:c", "user:d"),
            "s\n\nt\n[user]a[assistant]b\n\nc[user]d",
        ),
        (ALTERNATING, said("user:a", "system:s", "user:b"), "[user]a\n\ns\n\nb"),
        (NO_SYSTEM, said("system:s", "user:a"), "[user]s\n\na"),
    ],
)
async def test_turns_are_merged_where_a_template_wants_them_to_alternate(
    start_fleet: Any, template: str, messages: list[dict[str, Any]], prompt: str
) -> None:
    async with (
        start_fleet(template=template) as fleet,
        aiohttp.ClientSession(fleet.url, headers={"x-api-key": "k" * 64}) as http,
        http.post("/v1/chat/completions", json={"messages": messages}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        ids = fleet.stage.requests[0].token_ids.ids
        assert fleet.tokens.tokenizer.decode(ids) == prompt


async def test_turns_that_no_merging_helps_are_refused_as_before(start_fleet: Any) -> None:
    async with (
        start_fleet(template=ALTERNATING) as fleet,
        aiohttp.ClientSession(fleet.url, headers={"x-api-key": "k" * 64}) as http,
        http.post(
            "/v1/chat/completions", json={"messages": said("assistant:a", "assistant:b")}
        ) as answer,
    ):
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert error["code"] == "template_failed"
    assert "must alternate" in error["message"]


def test_merged_turns_keep_calls_images_and_thoughts() -> None:
    image = Image("image/png", b"x", offset=1)
    first = Message("user", "ab", images=(image,))
    second = Message("user", "cd", images=(image,))
    calls = (ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}"))
    third = Message("assistant", "", tool_calls=calls[:1], reasoning="hm", signature="s")
    fourth = Message("assistant", "ok", tool_calls=calls[1:])
    results = tuple(Message("tool", "r", tool_call_id=call.call_id) for call in calls)
    [merged] = alternatives((first, second, third, fourth, *results))
    assert merged[0].text == "ab\n\ncd"
    assert [merged[0].text[each.offset] for each in merged[0].images] == ["b", "d"]
    assert merged[1] == Message("assistant", "ok", tool_calls=calls, reasoning="hm")
    assert merged[2:] == results
    assert alternatives(merged) == []
