"""Tasks as bodies of a chat completion."""

from __future__ import annotations

import json

import pytest

from shoal.common.v1 import chat_pb2
from shoal_entropy_drafter.draft.body import body_of
from shoal_entropy_drafter.errors import DraftFailed


def message(role: chat_pb2.Role, *texts: str, name: str = "") -> chat_pb2.ChatMessage:
    parts = [chat_pb2.ContentPart(text=text) for text in texts]
    return chat_pb2.ChatMessage(role=role, content=parts, name=name)


ASKED = message(chat_pb2.ROLE_USER, "Where is Paris?")


def test_conversation_sampling_and_format_are_written_down() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    task = chat_pb2.ChatTask(
        model="cascade",
        messages=[
            message(chat_pb2.ROLE_SYSTEM, "Be brief."),
            message(chat_pb2.ROLE_USER, "Hello", "there", name="kim"),
            message(chat_pb2.ROLE_ASSISTANT, "Hi."),
            ASKED,
        ],
        sampling=chat_pb2.SamplingSpec(
            temperature=0.7, top_p=0.9, presence_penalty=0.5, frequency_penalty=-0.1, seed=2**64 - 1
        ),
        max_tokens=99,
        stop=["END"],
        response_format=chat_pb2.ResponseFormat(json_schema=json.dumps(schema)),
    )
    assert body_of(task, "small", 7) == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello\nthere", "name": "kim"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Where is Paris?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.1,
        "seed": -1,
        "max_tokens": 99,
        "stop": ["END"],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": schema},
        },
    }


def test_what_is_not_set_is_not_sent() -> None:
    body = body_of(chat_pb2.ChatTask(messages=[ASKED]), "small", 5)
    extra = {"max_tokens", "stop", "top_p", "seed", "presence_penalty", "response_format"}
    assert not extra & body.keys()
    # Greedy is a wish, not an absence.
    assert body["temperature"] == 0


def test_json_object_and_tools_that_are_off() -> None:
    task = chat_pb2.ChatTask(
        messages=[ASKED],
        tools=[chat_pb2.Tool(name="f")],
        tool_choice=chat_pb2.ToolChoice(mode=chat_pb2.TOOL_MODE_NONE),
        response_format=chat_pb2.ResponseFormat(json_object=True),
    )
    body = body_of(task, "small", 5)
    assert body["response_format"] == {"type": "json_object"}
    assert "tools" not in body


def test_earlier_thoughts_are_left_out() -> None:
    parts = [chat_pb2.ContentPart(thinking="hm"), chat_pb2.ContentPart(text="Hi.")]
    earlier = chat_pb2.ChatMessage(role=chat_pb2.ROLE_ASSISTANT, content=parts)
    body = body_of(chat_pb2.ChatTask(messages=[earlier, ASKED]), "small", 5)
    assert body["messages"][0] == {"role": "assistant", "content": "Hi."}


IMAGE = chat_pb2.ContentPart(image=chat_pb2.ImagePart(media_type="image/png", data=b"x"))
CALLED = chat_pb2.ChatMessage(
    role=chat_pb2.ROLE_ASSISTANT, tool_calls=[chat_pb2.ToolCall(call_id="c", name="f")]
)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (chat_pb2.ChatTask(messages=[ASKED], tools=[chat_pb2.Tool(name="f")]), "tool_call"),
        (chat_pb2.ChatTask(messages=[CALLED, ASKED]), "tool_call"),
        (chat_pb2.ChatTask(messages=[message(chat_pb2.ROLE_TOOL, "7"), ASKED]), "tool_call"),
        (
            chat_pb2.ChatTask(
                messages=[chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, content=[IMAGE])]
            ),
            "error",
        ),
        (chat_pb2.ChatTask(messages=[ASKED], adapter_id="mine"), "error"),
        (
            chat_pb2.ChatTask(
                messages=[ASKED], sampling=chat_pb2.SamplingSpec(logit_bias={5: 1.0})
            ),
            "error",
        ),
        (
            chat_pb2.ChatTask(
                messages=[ASKED], response_format=chat_pb2.ResponseFormat(json_schema="{")
            ),
            "error",
        ),
        (chat_pb2.ChatTask(messages=[ASKED], privacy=chat_pb2.PRIVACY_LABEL_LAN), "error"),
    ],
)
def test_what_an_upstream_cannot_draft_is_the_heavyweights(
    task: chat_pb2.ChatTask, reason: str
) -> None:
    with pytest.raises(DraftFailed) as caught:
        body_of(task, "small", 5)
    assert caught.value.verdict_reason == reason
