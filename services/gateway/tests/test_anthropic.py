"""Anthropic's bodies to ChatTask: what is read, what is refused by name."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects import anthropic
from shoal_gateway.task import (
    CachePoint,
    Message,
    ReplyFormat,
    Thinking,
    Thought,
    ToolCall,
    ToolChoice,
)

AGENT_REQUEST = (Path(__file__).parent / "data" / "anthropic_agent.json").read_text()
PNG = base64.b64encode(b"\x89PNG fish").decode()
HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "input_schema": {"type": "object"}}
TEXT = {"type": "text", "text": "t"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 64, "messages": HELLO} | fields


def user(*blocks: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": list(blocks)}])


def assistant(*blocks: Any) -> dict[str, Any]:
    return body(messages=[*HELLO, {"role": "assistant", "content": list(blocks)}])


def messages(given: dict[str, Any]) -> tuple[Message, ...]:
    return anthropic.parse(given).task.messages


def test_the_plain_fields() -> None:
    asked = anthropic.parse(
        body(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            stop_sequences=["END"],
            metadata={"user_id": "u"},
            service_tier="auto",
            stream=True,
            later_field=1,
        )
    )
    task = asked.task
    assert (task.model, task.max_tokens, task.stop) == ("m", 64, ("END",))
    sampling = task.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert asked.is_stream
    assert task.messages == (Message("user", "hi"),)
    assert task.extras == {"later_field": 1}


def test_system_is_the_first_message() -> None:
    blocks = [TEXT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, TEXT]
    points = (CachePoint(1, "1h"),)
    for system, expected in (
        ("brief", Message("system", "brief")),
        (blocks, Message("system", "t\nt", cache_points=points)),
    ):
        assert messages(body(system=system))[0] == expected
    assert messages(body(system=[])) == (Message("user", "hi"),)


def test_results_come_before_the_users_text_and_know_their_tool() -> None:
    given = body(
        messages=[
            *HELLO,
            {"role": "user", "content": "again"},
            {
                "role": "assistant",
                "content": [TEXT, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}],
            },
            {
                "role": "user",
                "content": [
                    TEXT,
                    {"type": "tool_result", "tool_use_id": "1", "content": [TEXT, TEXT]},
                    {"type": "tool_result", "tool_use_id": "2", "content": "no", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "3"},
                ],
            },
        ]
    )
    assert messages(given) == (
        Message("user", "hi"),
        Message("user", "again"),
        Message("assistant", "t", tool_calls=(ToolCall("1", "f", '{"x":1}'),)),
        Message("tool", "t\nt", tool_call_id="1", name="f"),
        Message("tool", "no", tool_call_id="2", is_error=True),
        Message("tool", "", tool_call_id="3"),
        Message("user", "t"),
    )


def test_images_keep_their_place_in_the_text() -> None:
    inline = {"type": "base64", "media_type": "image/png", "data": PNG}
    remote = {"type": "url", "url": "https://example.org/fish.png"}
    result = {"type": "image", "source": inline}
    found = messages(
        user(
            {"type": "tool_result", "tool_use_id": "1", "content": [TEXT, result]},
            {"type": "text", "text": "look"},
            {"type": "image", "source": inline},
            {"type": "image", "source": remote},
            {"type": "text", "text": "what?"},
        )
    )
    assert [image.offset for image in found[0].images] == [1]
    assert found[1].text == "look\nwhat?"
    assert [(i.media_type, i.data, i.url, i.offset) for i in found[1].images] == [
        ("image/png", b"\x89PNG fish", "", 4),
        ("", b"", "https://example.org/fish.png", 4),
    ]


def test_thoughts_go_with_the_message_and_one_signature_proves_one_thought() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    sealed = {"type": "redacted_thinking", "data": "xyz"}
    thoughts = (Thought("hm", "s"), Thought(sealed="xyz"))
    assert messages(assistant(thought, sealed, TEXT))[1] == Message(
        "assistant", "t", reasoning="hm", signature="s", thoughts=thoughts
    )
    two = messages(assistant(thought, TEXT, thought))[1]
    assert (two.reasoning, two.signature) == ("hm\nhm", "")


def test_documents_and_search_results_are_their_text() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "body"}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    nested = {"type": "content", "content": [TEXT, image]}
    found = messages(
        user(
            {"type": "document", "source": plain, "title": "A", "context": "of B"},
            {"type": "document", "source": nested},
            {"type": "search_result", "title": "C", "source": "https://c", "content": [TEXT]},
        )
    )[0]
    assert found.text == "A\nof B\nbody\nt\nC\nhttps://c\nt"
    assert found.images[0].offset == len("A\nof B\nbody\nt")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Thinking()),
        ({"thinking": {"type": "disabled"}}, Thinking("off")),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            Thinking("xhigh"),
        ),
        (
            {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            Thinking("on", 1024),
        ),
        ({"output_config": {"effort": "low"}}, Thinking("low")),
    ],
)
def test_how_much_to_think(fields: dict[str, Any], expected: Thinking) -> None:
    assert anthropic.parse(body(**fields)).task.thinking == expected


@pytest.mark.parametrize(
    ("choice", "expected", "is_parallel"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(), False),
        ({"type": "any"}, ToolChoice("required"), True),
        ({"type": "tool", "name": "f"}, ToolChoice("named", "f"), True),
        ({"type": "none"}, ToolChoice("none"), True),
    ],
)
def test_the_choice_among_tools(choice: Any, expected: ToolChoice, is_parallel: bool) -> None:
    task = anthropic.parse(body(tools=[TOOL], tool_choice=choice)).task
    assert (task.tool_choice, task.allows_parallel_calls) == (expected, is_parallel)


def test_tools_keep_their_schema() -> None:
    given = TOOL | {
        "type": "custom",
        "description": "d",
        "strict": True,
        "cache_control": {"type": "ephemeral"},
        "eager_input_streaming": True,
    }
    tool = anthropic.parse(body(tools=[given])).task.tools[0]
    assert (tool.name, tool.description, tool.is_strict) == ("f", "d", True)
    assert tool.parameters == {"type": "object"}


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_a_schema_for_the_reply(name: str) -> None:
    asked: Any = {"type": "json_schema", "schema": {"type": "object"}}
    is_new = name == "output_config"
    task = anthropic.parse(body(**{name: {"format": asked} if is_new else asked})).task
    param = "output_config.format" if is_new else "output_format"
    assert task.reply_format == ReplyFormat("json_schema", param, '{"type":"object"}')


def test_counting_needs_no_token_limit() -> None:
    given = body(thinking={"type": "enabled", "budget_tokens": 4096})
    del given["max_tokens"]
    assert anthropic.parse_count(given).messages == (Message("user", "hi"),)


def test_a_request_as_coding_agents_send_it() -> None:
    asked = anthropic.parse(json.loads(AGENT_REQUEST))
    task = asked.task
    assert asked.is_stream
    assert [message.role for message in task.messages] == [
        "system", "user", "assistant", "tool", "tool", "user",
    ]  # fmt: skip
    assert task.messages[0].text == "You are an agent.\nWork with care.\n# Environment"
    assert task.messages[2].reasoning == "Two files to read."
    assert [call.name for call in task.messages[2].tool_calls] == ["Read", "Read"]
    assert [message.name for message in task.messages[3:5]] == ["Read", "Read"]
    assert [tool.name for tool in task.tools] == ["Read", "Bash"]
    assert task.thinking == Thinking("on", 31999)
    assert task.extras == {}


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {k: v for k, v in body().items() if k != "max_tokens"}),
    ("max_tokens", body(max_tokens=0)),
    ("max_tokens", body(max_tokens=32769)),
    ("max_tokens", body(max_tokens="64")),
    ("messages", {"max_tokens": 1}),
    ("messages", body(messages=[])),
    ("messages", body(messages={})),
    ("messages[0]", body(messages=["hi"])),
    ("messages[0].role", body(messages=[{"role": "tool", "content": "x"}])),
    ("messages[0].role", body(messages=[{"content": "x"}])),
    ("messages[0].content", body(messages=[{"role": "user"}])),
    ("messages[0].content", body(messages=[{"role": "user", "content": 7}])),
    ("messages[0].content[0]", user("hi")),
    ("messages[0].content[0].type", user({})),
    ("messages[0].content[0].type", user({"type": "video"})),
    ("messages[0].content[0].type", user({"type": "thinking", "thinking": "x"})),
    ("messages[0].content[0].type", user({"type": "container_upload", "file_id": "f"})),
    ("messages[0].content[0].text", user({"type": "text"})),
    ("messages[0].content[0].source", user({"type": "image"})),
    ("messages[0].content[0].source.type", user({"type": "image", "source": {"type": "file"}})),
    (
        "messages[0].content[0].source.data",
        user(
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "no!"},
            }
        ),
    ),
    (
        "messages[0].content[0].source.url",
        user({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}),
    ),
    (
        "messages[0].content[0].source.type",
        user({"type": "document", "source": {"type": "base64", "data": PNG}}),
    ),
    (
        "messages[0].content[0].source.content[0].type",
        user(
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "document"}]},
            }
        ),
    ),
    ("messages[0].content[0].tool_use_id", user({"type": "tool_result", "content": "x"})),
    (
        "messages[0].content[0].content[0].type",
        user({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_use"}]}),
    ),
    (
        "messages[0].content[0].cache_control",
        user({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1y"}}),
    ),
    (
        "messages[0].content[0].is_error",
        user({"type": "tool_result", "tool_use_id": "1", "is_error": "yes"}),
    ),
    ("messages[0].content[0].title", user({"type": "search_result", "content": [TEXT]})),
    ("messages[1].content[0].type", assistant({"type": "image"})),
    ("messages[1].content[0].type", assistant({"type": "server_tool_use", "name": "web_search"})),
    ("messages[1].content[0].type", assistant({"type": "web_search_tool_result"})),
    ("messages[1].content[0].id", assistant({"type": "tool_use", "name": "f", "input": {}})),
    (
        "messages[1].content[0].input",
        assistant({"type": "tool_use", "id": "1", "name": "f", "input": "{}"}),
    ),
    ("messages[1].content[0].data", assistant({"type": "redacted_thinking"})),
    ("system", body(system=7)),
    ("system[0].type", body(system=[{"type": "image"}])),
    ("model", body(model="m" * 257)),
    ("temperature", body(temperature=1.1)),
    ("top_p", body(top_p=-0.1)),
    ("top_k", body(top_k=-1)),
    ("stream", body(stream="yes")),
    ("stop_sequences", body(stop_sequences="END")),
    ("stop_sequences", body(stop_sequences=["x"] * 17)),
    ("stop_sequences", body(stop_sequences=[""])),
    ("metadata", body(metadata="u")),
    ("metadata.user_id", body(metadata={"user_id": 1})),
    ("service_tier", body(service_tier="gold")),
    ("mcp_servers", body(mcp_servers=[{"url": "https://x"}])),
    ("container", body(container="c")),
    ("tools", body(tools=[TOOL] * 129)),
    ("tools[0].input_schema", body(tools=[{"name": "f"}])),
    ("tools[0].name", body(tools=[{"input_schema": {}}])),
    ("tools[0].name", body(tools=[TOOL | {"name": ""}])),
    ("tools[1].name", body(tools=[TOOL, TOOL])),
    ("tools[0].type", body(tools=[{"type": "web_search_20250305", "name": "web_search"}])),
    ("tool_choice", body(tool_choice="auto")),
    ("tool_choice", body(tool_choice={"type": "any"})),
    ("tool_choice", body(tools=[TOOL], tool_choice={"type": "tool", "name": "g"})),
    ("tool_choice.type", body(tools=[TOOL], tool_choice={"type": "required"})),
    ("tool_choice.name", body(tools=[TOOL], tool_choice={"type": "tool"})),
    ("thinking.type", body(thinking={"type": "on"})),
    ("thinking.budget_tokens", body(thinking={"type": "enabled"})),
    ("thinking.budget_tokens", body(thinking={"type": "enabled", "budget_tokens": 100})),
    ("thinking.budget_tokens", body(thinking={"type": "enabled", "budget_tokens": 1024})),
    ("thinking.display", body(thinking={"type": "adaptive", "display": "loud"})),
    ("output_config.effort", body(output_config={"effort": "huge"})),
    ("output_config.format.type", body(output_config={"format": {"type": "text"}})),
    ("output_config.format.schema", body(output_config={"format": {"type": "json_schema"}})),
    ("output_format.type", body(output_format={"type": "json_object", "schema": {}})),
]


@pytest.mark.parametrize(("param", "given"), WRONG)
def test_what_is_wrong_is_named(param: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        anthropic.parse(given)
    assert refused.value.param == param
    assert f"'{param}'" in str(refused.value)


def test_a_last_message_of_the_assistant_is_gone_on_from() -> None:
    assert anthropic.parse(assistant(TEXT)).task.continues_last
    assert not anthropic.parse(body()).task.continues_last
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    for given, problem in (
        (assistant(call), "tool_result"),
        (assistant({"type": "text", "text": "t "}), "white space"),
        (assistant(TEXT) | {"thinking": thinking, "max_tokens": 2048}, "thinking"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            anthropic.parse(given)


def test_what_cannot_be_run_here_says_what_to_do() -> None:
    for given, hint in (
        (body(tools=[{"type": "web_search_20250305", "name": "s"}]), "input_schema"),
        (assistant({"type": "server_tool_use"}), "leave it out"),
        (user({"type": "document", "source": {"type": "file", "file_id": "f"}}), "type text"),
    ):
        with pytest.raises(InvalidRequest, match=hint):
            anthropic.parse(given)


def test_unknown_fields_are_refused_only_when_strict() -> None:
    assert anthropic.parse(body(later=1)).task.extras == {"later": 1}
    with pytest.raises(InvalidRequest, match="later"):
        anthropic.parse(body(later=1), is_strict=True)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, print_blob=True)
@examples(st.data())
def test_whatever_a_field_holds_is_read_or_refused(data: st.DataObject) -> None:
    given = json.loads(AGENT_REQUEST)
    place: Any = given
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [-1, 0]))
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON_VALUES)
    refused = None
    try:
        anthropic.parse(given)
    except InvalidRequest as err:
        refused = err
    assert refused is None or refused.param
