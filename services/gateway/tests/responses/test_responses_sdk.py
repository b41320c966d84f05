"""What the official client makes of responses."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from shoal_common.errors import Unavailable
from shoal_gateway.task import (
    Admitted,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


class City(BaseModel):
    name: str


async def wire_events(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Every event of a stream as it is on the wire, each valid and rightly named."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/responses", json=body | {"stream": True}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        text = await answer.text()
    return checked(text)


def checked(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert_lossless(EVENTS.validate_python(event, strict=False), event)
        found.append(event)
    return found


def assert_lossless(model: BaseModel, raw: dict[str, Any]) -> None:
    """The model holds exactly what was sent, and every field is of its type."""
    type(model).model_validate_json(json.dumps(raw), strict=True)
    assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == raw


@pytest.fixture
async def client(gateway: Any) -> Any:
    async with gateway.client() as client:
        yield client


async def test_an_answer_is_a_valid_response(gateway: Any, client: openai.AsyncOpenAI) -> None:
    found = await client.responses.create(
        model="m", input="hi", instructions="be brief", metadata={"a": "b"}, temperature=0.5
    )
    assert found.output_text == "hello"
    assert found.status == "completed"
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (5, 2)
    assert found.usage.input_tokens_details.cached_tokens == 2
    assert found.metadata == {"a": "b"}
    stored = await client.responses.retrieve(found.id)
    assert stored == found
    raw = json.loads(stored.model_dump_json(exclude_unset=True))
    assert_lossless(Response.model_validate(raw), raw)
    task = gateway.backend.tasks[0]
    assert [(m.role, m.text) for m in task.messages] == [("system", "be brief"), ("user", "hi")]


async def test_a_stream_has_every_event_in_order(gateway: Any) -> None:
    events = await wire_events(gateway.url, {"model": "m", "input": "hi"})
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


async def test_reasoning_and_calls_are_items_of_their_own(gateway: Any) -> None:
    gateway.backend.script = [
        Admitted(5),
        ReasoningDelta("think"),
        ReasoningDelta("", signature="sig"),
        TextDelta("so"),
        ToolCallStarted(0, "call_a", "weather"),
        ToolCallDelta(0, '{"city":'),
        ToolCallStarted(1, "call_b", "weather"),
        ToolCallDelta(1, "{}"),
        ToolCallDelta(0, '"Ulm"}'),
        Finished("tool_calls", Usage(5, 9, reasoning_tokens=3)),
    ]
    body = {"model": "m", "input": "hi", "tools": [WEATHER]}
    events = await wire_events(gateway.url, body)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning", "message", "function_call", "function_call"
    ]  # fmt: skip
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "think"}]
    assert output[0]["encrypted_content"] == "sig"
    assert [item["arguments"] for item in output[2:]] == ['{"city":"Ulm"}', "{}"]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done == output
    kinds = [event["type"] for event in events]
    assert kinds.count("response.reasoning_text.delta") == 1
    assert kinds.count("response.function_call_arguments.done") == 2
    assert events[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}


async def test_logprobs_come_when_they_are_included(gateway: Any) -> None:
    entry = TokenLogprob("hi", b"hi", -0.5, (TokenLogprob("ho", b"ho", -1.5),))
    gateway.backend.script = [
        TextDelta("hi", (entry,)), Finished("stop", Usage(1, 1))
    ]  # fmt: skip
    body = {"model": "m", "input": "x", "top_logprobs": 1}
    events = await wire_events(gateway.url, body)
    assert not events[4]["logprobs"]
    body["include"] = ["message.output_text.logprobs"]
    events = await wire_events(gateway.url, body)
    wanted = {
        "token": "hi",
        "logprob": -0.5,
        "bytes": [104, 105],
        "top_logprobs": [{"token": "ho", "logprob": -1.5, "bytes": [104, 111]}],
    }
    assert events[4]["logprobs"] == [wanted]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [wanted]
    assert gateway.backend.tasks[1].top_logprob_count == 1


async def test_the_accumulator_reads_a_stream(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="m", input="hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert final.output_text == "hello"


async def test_the_accumulator_parses_calls_and_formats(
    gateway: Any, client: openai.AsyncOpenAI
) -> None:
    gateway.backend.script = [
        ReasoningDelta("hm"),
        TextDelta('{"name":'),
        TextDelta('"Ulm"}'),
        Finished("stop", Usage(1, 2)),
    ]
    async with client.responses.stream(model="m", input="hi", text_format=City) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == City(name="Ulm")
    parsed = await client.responses.parse(model="m", input="hi", text_format=City)
    assert parsed.output_parsed == City(name="Ulm")
    asked = gateway.backend.tasks[-1].reply_format
    assert asked is not None
    assert (asked.kind, asked.param, asked.name) == ("json_schema", "text.format", "City")


async def test_a_cut_answer_is_incomplete(gateway: Any, client: openai.AsyncOpenAI) -> None:
    gateway.backend.script = [TextDelta("hel"), Finished("length", Usage(1, 1))]
    found = await client.responses.create(model="m", input="hi", max_output_tokens=1)
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    events = await wire_events(gateway.url, {"model": "m", "input": "hi"})
    assert events[-1]["type"] == "response.incomplete"
    assert events[-2]["item"]["status"] == "incomplete"


async def test_an_empty_answer_has_an_empty_message(
    gateway: Any, client: openai.AsyncOpenAI
) -> None:
    gateway.backend.script = [Admitted(5), Finished("stop", Usage(1, 1))]
    async with client.responses.stream(model="m", input="hi") as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["message"]
    assert final.output_text == ""


async def test_a_stream_that_fails_says_so_once(gateway: Any, client: openai.AsyncOpenAI) -> None:
    gateway.backend.script = [TextDelta("hel"), Unavailable("the stage is gone")]
    events = await wire_events(gateway.url, {"model": "m", "input": "hi"})
    assert [e["type"] for e in events][-2:] == ["response.output_item.done", "response.failed"]
    failed = events[-1]["response"]
    assert failed["error"] == {"code": "server_error", "message": "the stage is gone"}
    assert failed["output"][0]["status"] == "incomplete"
    stored = await client.responses.retrieve(failed["id"])
    assert stored.status == "failed"


async def test_an_answer_that_fails_has_the_status_of_the_error(
    gateway: Any, client: openai.AsyncOpenAI
) -> None:
    gateway.backend.script = [Unavailable("the stage is gone")]
    with pytest.raises(openai.InternalServerError) as caught:
        await client.responses.create(model="m", input="hi")
    assert caught.value.status_code == 503


async def test_a_stored_stream_is_read_again(gateway: Any, client: openai.AsyncOpenAI) -> None:
    events = await wire_events(gateway.url, {"model": "m", "input": "hi"})
    name = events[0]["response"]["id"]
    again = await client.responses.retrieve(name, stream=True, starting_after=4)
    assert [e.sequence_number async for e in again] == [5, 6, 7, 8, 9]
    async with client.responses.stream(response_id=name) as whole:
        final = await whole.get_final_response()
    assert final.output_text == "hello"


async def test_an_answer_that_was_no_stream_cannot_be_streamed(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.responses.create(model="m", input="hi")
    with pytest.raises(openai.BadRequestError, match="not kept"):
        await client.responses.retrieve(made.id, stream=True)


async def test_input_tokens_are_counted(client: openai.AsyncOpenAI) -> None:
    found = await client.responses.input_tokens.count(model="m", input="hi", instructions="x")
    assert found.input_tokens == 2
    assert found.object == "response.input_tokens"
