"""Which requests are worth a draft, and what the cache may have of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal_common.driving import Privacy
from shoal_gateway.cascade.eligibility import cache_use_of, is_here, why_no_draft
from shoal_gateway.cascade.wire import task_of
from shoal_gateway.task import (
    ChatTask,
    Image,
    Message,
    RawPrompt,
    ReplyFormat,
    Sampling,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)

PLAIN = ChatTask("cascade", (Message("user", "hi"),))
FLEET, UPSTREAM = drafter_pb2.DRAFTER_KIND_FLEET, drafter_pb2.DRAFTER_KIND_UPSTREAM
TOOL = Tool("clock", "Time.", {"type": "object"})


@pytest.mark.parametrize(
    ("changes", "by_fleet", "by_upstream"),
    [
        ({}, "", ""),
        ({"messages": (Message("user", "", images=(Image("image/png", b"x"),)),)}, "images", None),
        ({"raw_prompt": RawPrompt("hi")}, "raw_prompt", None),
        ({"logprobs": True}, "logprobs", None),
        ({"adapter_id": "a"}, "adapter", None),
        ({"sampling": Sampling(logit_bias={5: 1.0})}, "logit_bias", None),
        ({"continues_last": True}, "continuation", None),
        ({"tools": (TOOL,)}, "", "tools"),
        ({"messages": (Message("tool", "12:00", tool_call_id="c"),)}, "", "tools"),
        ({"reply_format": ReplyFormat("json_object", "response_format")}, "", ""),
        ({"reply_format": ReplyFormat("regex", "guided_regex", "a+")}, "", "format"),
        ({"thinking": Thinking("high")}, "", "thinking"),
        ({"privacy": Privacy("pool")}, "", "privacy"),
    ],
)
def test_what_a_drafter_cannot_be_told_is_the_heavyweights(
    changes: dict[str, Any], by_fleet: str, by_upstream: str | None
) -> None:
    task = replace(PLAIN, **changes)
    assert why_no_draft(task, FLEET, is_drafter_here=True) == by_fleet
    expected = by_fleet if by_upstream is None else by_upstream
    assert why_no_draft(task, UPSTREAM, is_drafter_here=True) == expected


@pytest.mark.parametrize("privacy", [Privacy("local"), Privacy("public", is_boomerang=True)])
def test_a_prompt_that_must_stay_here_goes_to_no_drafter_elsewhere(privacy: Privacy) -> None:
    task = replace(PLAIN, privacy=privacy)
    assert why_no_draft(task, FLEET, is_drafter_here=True) == ""
    assert why_no_draft(task, FLEET, is_drafter_here=False) == "privacy"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7005", True),
        ("unix:/run/drafter", True),
        ("grpc:localhost:7005", True),
        ("[::1]:7005", True),
        ("10.0.0.4:7005", False),
        ("drafter:7005", False),
    ],
)
def test_an_address_tells_whether_it_is_this_machine(address: str, expected: bool) -> None:
    assert is_here(address) is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, drafter_pb2.CACHE_USE_UNSPECIFIED),
        ({"cache_control": "no-cache"}, drafter_pb2.CACHE_USE_REFRESH),
        ({"cache_control": "no-store"}, drafter_pb2.CACHE_USE_NONE),
        ({"privacy": Privacy("lan")}, drafter_pb2.CACHE_USE_NONE),
        ({"tools": (TOOL,)}, drafter_pb2.CACHE_USE_NONE),
        ({"thinking": Thinking("low")}, drafter_pb2.CACHE_USE_NONE),
        ({"extras": {"web": True}}, drafter_pb2.CACHE_USE_NONE),
        ({"reply_format": ReplyFormat("choice", "g", choices=("a",))}, drafter_pb2.CACHE_USE_NONE),
        (
            {"reply_format": ReplyFormat("json_schema", "response_format", "{}")},
            drafter_pb2.CACHE_USE_UNSPECIFIED,
        ),
    ],
)
def test_what_the_cache_cannot_tell_apart_it_does_not_get(
    changes: dict[str, Any], expected: drafter_pb2.CacheUse
) -> None:
    assert cache_use_of(replace(PLAIN, **changes)) == expected


def test_a_conversation_in_the_drafters_words() -> None:
    task = replace(
        PLAIN,
        messages=(
            Message("system", "be brief"),
            Message("user", "time?", name="ann"),
            Message("assistant", "", (ToolCall("c1", "clock", "{}"),), reasoning="look"),
            Message("tool", "no clock", tool_call_id="c1", is_error=True),
        ),
        tools=(TOOL,),
        tool_choice=ToolChoice("named", "clock"),
        reply_format=ReplyFormat("json_schema", "response_format", '{"type":"object"}'),
        stop=("END",),
        tenant="t",
        privacy=Privacy("pool"),
        sampling=Sampling(seed=3),
    )
    sent = task_of(task, chat_pb2.SamplingSpec(temperature=0.5, seed=99), 40)
    assert [message.role for message in sent.messages] == [1, 2, 3, 4]
    assert sent.messages[1].name == "ann"
    assert sent.messages[2].content[0].thinking == "look"
    assert sent.messages[2].tool_calls[0].name == "clock"
    assert sent.messages[3].content[0].text == "Error: no clock"
    assert (sent.tools[0].parameters_json, sent.tool_choice.name) == ('{"type": "object"}', "clock")
    assert sent.response_format.json_schema == '{"type":"object"}'
    assert (sent.sampling.seed, sent.max_tokens, sent.tenant) == (3, 40, "t")
    assert sent.privacy == chat_pb2.PRIVACY_LABEL_POOL
