"""Events as Anthropic's messages, read back by the official client's accumulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_common.errors import Internal, InvalidRequest, Overloaded, StageFailed, Unauthenticated
from shoal_gateway.dialects.anthropic_render import (
    HELD_PIECES_PER_PING,
    PING,
    MessageEnvelope,
    MessageStream,
    error_object,
    error_status,
)
from shoal_gateway.task import (
    Admitted,
    Event,
    Finished,
    FinishReason,
    Queued,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

ENVELOPE = MessageEnvelope("msg_1", "m", "req-1", prompt_tokens_guess=9)
DONE = Finished("stop", Usage(10, 5, cached_tokens=4))


def streamed(events: Sequence[Event], envelope: MessageEnvelope = ENVELOPE) -> bytes:
    renderer = MessageStream(envelope)
    return b"".join(renderer.feed(event) for event in events)


def accumulated(data: bytes) -> Message:
    """What the official client makes of a stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=data, headers={"content-type": "text/event-stream"})

    transport = httpx2.MockTransport(answer)
    with (
        Anthropic(api_key="k", http_client=httpx2.Client(transport=transport)) as client,
        client.messages.stream(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        return stream.get_final_message()


def whole(events: Sequence[Event], envelope: MessageEnvelope = ENVELOPE) -> dict[str, Any]:
    async def source() -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    return asyncio.run(envelope.whole(source()))


def parts(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def contents(message: Message) -> list[dict[str, Any]]:
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    return [{k: v for k, v in block.items() if k != "parsed_output"} for block in blocks]


def call(index: int, *arguments: str) -> list[Event]:
    started = ToolCallStarted(index, f"call_{index}", "f")
    return [started, *(ToolCallDelta(index, piece) for piece in arguments)]


def test_thought_text_and_calls_are_blocks_in_order() -> None:
    events: list[Event] = [
        Queued(1),
        Admitted(10, 4),
        ReasoningDelta("so "),
        ReasoningDelta("then", signature="sig"),
        TextDelta("I "),
        TextDelta("look"),
        *call(0, '{"x"', ": 1}"),
        *call(1),
        Finished("tool_calls", Usage(10, 5, 4, reasoning_tokens=2)),
    ]
    message = accumulated(streamed(events))
    assert contents(message) == [
        {"type": "thinking", "thinking": "so then", "signature": "sig"},
        {"type": "text", "text": "I look"},
        {"type": "tool_use", "id": "call_0", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
    ]
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 5)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 2
    assert whole(events)["content"] == contents(message)


def test_a_second_admission_changes_nothing() -> None:
    begun: list[Event] = [Admitted(10, 4), TextDelta("a")]
    rest: list[Event] = [TextDelta("b"), DONE]
    assert streamed([*begun, Admitted(10, 0), *rest]) == streamed([*begun, *rest])


def test_an_unknown_prompt_is_never_told_as_zero() -> None:
    start = parts(streamed([Admitted(), TextDelta("a"), DONE]))[0]
    assert start["message"]["usage"]["input_tokens"] == 9


def test_a_signature_ends_its_thought() -> None:
    events = [ReasoningDelta("a", "1"), ReasoningDelta("b", "2"), DONE]
    assert whole(events)["content"] == [
        {"type": "thinking", "thinking": "a", "signature": "1"},
        {"type": "thinking", "thinking": "b", "signature": "2"},
    ]


def test_hidden_thoughts_keep_their_signature() -> None:
    envelope = MessageEnvelope("msg_1", "m", "req-1", hides_thinking=True)
    events = [ReasoningDelta("a"), ReasoningDelta("", "1"), TextDelta("t"), DONE]
    expected = [
        {"type": "thinking", "thinking": "", "signature": "1"},
        {"type": "text", "text": "t"},
    ]
    assert whole(events, envelope)["content"] == expected
    assert contents(accumulated(streamed(events, envelope))) == expected


@pytest.mark.parametrize("arguments", ['{"x": 1', "[1]", "{x: 1}", '{"x": NaN}', '{"x":"\\ud800"}'])
def test_arguments_that_are_no_object_are_said_as_text(arguments: str) -> None:
    events = [*call(0, arguments), Finished("tool_calls", Usage(1, 1))]
    expected = [{"type": "text", "text": f"f({arguments})"}]
    message = accumulated(streamed(events))
    assert contents(message) == expected
    assert message.stop_reason == "end_turn"
    assert whole(events)["content"] == expected


def test_calls_whose_pieces_are_mixed_come_one_after_another() -> None:
    events: list[Event] = [
        *call(0, '{"x":'),
        *call(1, '{"y":'),
        TextDelta("meanwhile"),
        ToolCallDelta(0, "1}"),
        ToolCallDelta(1, "2}"),
        DONE,
    ]
    assert contents(accumulated(streamed(events))) == [
        {"type": "text", "text": "meanwhile"},
        {"type": "tool_use", "id": "call_0", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"y": 2}},
    ]


def test_long_arguments_keep_the_stream_awake() -> None:
    renderer = MessageStream(ENVELOPE)
    renderer.feed(Admitted(1))
    renderer.feed(ToolCallStarted(0, "c", "f"))
    told = [renderer.feed(ToolCallDelta(0, " ")) for _ in range(HELD_PIECES_PER_PING)]
    assert told == [b""] * (HELD_PIECES_PER_PING - 1) + [PING]


@pytest.mark.parametrize(
    ("reason", "stop_string", "expected"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("content_filter", None, "refusal"),
    ],
)
def test_why_it_ended(reason: FinishReason, stop_string: str | None, expected: str) -> None:
    message = whole([TextDelta("a"), Finished(reason, Usage(1, 1), stop_string)])
    assert (message["stop_reason"], message["stop_sequence"]) == (expected, stop_string)


def test_an_answer_that_filled_the_context_says_so() -> None:
    envelope = MessageEnvelope("msg_1", "m", "req-1", max_tokens=8)
    for count, reason in ((8, "max_tokens"), (5, "model_context_window_exceeded")):
        message = whole([TextDelta("a"), Finished("length", Usage(1, count))], envelope)
        assert message["stop_reason"] == reason


def test_an_answer_without_a_finish_is_an_error() -> None:
    with pytest.raises(Internal):
        whole([Admitted(1), TextDelta("a")])


def test_silence_is_a_comment_until_the_message_begins() -> None:
    renderer = MessageStream(ENVELOPE)
    assert renderer.keep_alive().startswith(b":")
    renderer.feed(Admitted(1))
    assert renderer.keep_alive() == PING


def test_errors_have_anthropics_types() -> None:
    for error, kind, status in (
        (InvalidRequest("x", "f"), "invalid_request_error", 400),
        (Unauthenticated("x"), "authentication_error", 401),
        (Overloaded("x"), "overloaded_error", 529),
        (StageFailed("n", "x"), "api_error", 503),
    ):
        body = error_object(error)
        assert (body["type"], body["error"]["type"]) == ("error", kind)
        assert body["error"]["message"] == str(error)
        assert error_status(error) == status
    last = parts(MessageStream(ENVELOPE).failure(Overloaded("full")))[0]
    assert last["request_id"] == "req-1"


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
ARGUMENTS = st.one_of(
    st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.none())).map(json.dumps), TEXTS
)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Any contents, calls in pieces, with a second admission somewhere."""
    events: list[Event] = [Admitted(10, 4)]
    call_count = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "call", "admitted"]))):
        if kind == "text":
            events.append(TextDelta(draw(TEXTS)))
        elif kind == "thought":
            events.append(ReasoningDelta(draw(TEXTS), draw(st.sampled_from(["", "s"]))))
        elif kind == "call":
            arguments = draw(ARGUMENTS)
            cut = draw(st.integers(0, len(arguments)))
            events += call(call_count, arguments[:cut], arguments[cut:])
            call_count += 1
        else:
            events.append(Admitted(10, 0))
    return [*events, Finished(draw(st.sampled_from(["stop", "tool_calls", "length"])), Usage(9, 9))]


@settings(max_examples=60, deadline=None, print_blob=True)
@given(answers())
def test_any_answer_is_read_back_whole(events: list[Event]) -> None:
    data = streamed(events)
    message = accumulated(data)
    expected = whole(events)
    assert contents(message) == expected["content"]
    assert message.stop_reason == expected["stop_reason"]
    assert_order(parts(data))
    assert_nothing_lost(events, expected["content"])


def assert_order(told: list[dict[str, Any]]) -> None:
    """One block at a time, counted from 0, none left open."""
    index, is_open = -1, False
    for part in told:
        if part["type"] == "content_block_start":
            assert not is_open
            assert part["index"] == index + 1
            index, is_open = index + 1, True
        elif part["type"] in ("content_block_delta", "content_block_stop"):
            assert is_open
            assert part["index"] == index
            is_open = part["type"] == "content_block_delta"
    assert [part["type"] for part in told[-2:]] == ["message_delta", "message_stop"]
    assert not is_open


def assert_nothing_lost(events: list[Event], blocks: list[dict[str, Any]]) -> None:
    thoughts = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert "".join(b["thinking"] for b in blocks if b["type"] == "thinking") == thoughts
    calls: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            calls[event.index] = calls.get(event.index, "") + event.arguments
    ran = {block["id"]: block["input"] for block in blocks if block["type"] == "tool_use"}
    said = "".join(block["text"] for block in blocks if block["type"] == "text")
    for index, arguments in calls.items():
        if f"call_{index}" in ran:
            assert ran[f"call_{index}"] == json.loads(arguments.strip() or "{}")
        else:
            assert f"f({arguments})" in said
    texts = [event.text for event in events if isinstance(event, TextDelta)]
    assert all(text in said for text in texts)
