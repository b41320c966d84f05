"""The gateway against OpenAI's published OpenAPI document, by schemathesis over HTTP.

Bodies that the document allows and bodies that it does not: never a server error, and every answer
of a described status looks as described.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from shoal_common.testing.redis import start_redis

KEY = "k" * 64
# The gateway runs in this process too, and draws its ids while a case is drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def with_nulls(value: Any) -> Any:
    """`nullable: true` as the choice of null that it means."""
    if isinstance(value, list):
        return [with_nulls(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    plain = {key: with_nulls(entry) for key, entry in value.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain


def read_document() -> dict[str, Any]:
    """As published, but for three slips: `nullable` is a word of older versions of OpenAPI, a
    response has no usage before its end, and of errors it describes what stands below their
    "error" key."""
    document: dict[str, Any] = with_nulls(
        json.loads((Path(__file__).parent / "data" / "openai_openapi.json").read_text())
    )
    schemas = document["components"]["schemas"]
    [own] = [part["properties"] for part in schemas["Response"]["allOf"] if "properties" in part]
    own["usage"] = {"anyOf": [own["usage"], {"type": "null"}]}
    schemas["ErrorBody"] = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/Error"}},
    }
    described = {
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            answers = operation["responses"]
            for answer in answers.values():
                # Events are checked one by one, below.
                if "text/event-stream" in answer.get("content", {}):
                    answer["content"]["text/event-stream"] = {}
            answers = {status: answers[status] for status in answers if status.startswith("2")}
            operation["responses"] = answers | {"4XX": {"description": "refused"} | described}
    return document


DOCUMENT = read_document()
# The first is left out where 503 is the answer: without a provider nobody makes embeddings.
CHECKS = (not_a_server_error, response_schema_conformance, content_type_conformance)
# Those whose parameters are texts: what is against the document cannot be sent.
POSITIVE_ONLY = frozenset(
    {
        "GET /models",
        "GET /models/{model}",
        "DELETE /responses/{response_id}",
        "POST /responses/{response_id}/cancel",
    }
)
# The same, as the official client reads them.
CLIENT_EVENTS: dict[str, TypeAdapter[Any]] = {
    "/chat/completions": TypeAdapter(ChatCompletionChunk),
    "/responses": TypeAdapter(ResponseStreamEvent),
}
# What this gateway refuses by name, or a small model has no room for.
UNSUPPORTED = {
    "/chat/completions": ("functions", "function_call", "audio", "web_search_options", "tools"),
    "/completions": ("suffix", "echo"),
    "/responses": ("prompt", "conversation", "previous_response_id", "tools", "tool_choice"),
}
# Each of these must have been answered, not only refused, or nothing was tested.
ANSWERED = frozenset(
    {"POST /chat/completions", "POST /completions", "POST /responses", "GET /models"}
)
OPERATIONS = sorted(
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
)


@pytest.fixture
async def fleet(start_fleet: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """With a Redis, as stored responses need one."""
    with start_redis(tmp_path) as redis:
        async with start_fleet(redis_url=redis.url) as fleet:
            fleet.says('{"a": 1}')
            yield fleet


@cache
def event_validator(name: str) -> jsonschema_rs.Validator:
    """Of one event's data, by the name of its schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(schema)


def schema_of(path: str, event: dict[str, Any]) -> str:
    """The name of the one schema that an event must match."""
    if path == "/chat/completions":
        return "CreateChatCompletionStreamResponse"
    schemas = DOCUMENT["components"]["schemas"]
    kinds = [entry["$ref"].rpartition("/")[2] for entry in schemas["ResponseStreamEvent"]["anyOf"]]
    return next(k for k in kinds if schemas[k]["properties"]["type"]["enum"] == [event["type"]])


def check_events(path: str, text: str) -> int:
    """Every event of a stream looks as described; how many there were."""
    lines = [line for line in text.split("\n") if line.startswith("data: {")]
    for line in lines:
        event = json.loads(line[6:])
        validator = event_validator(schema_of(path, event))
        problems = [str(problem) for problem in validator.iter_errors(event)]
        assert not problems, f"{line}\n{problems}"
        CLIENT_EVENTS[path].validate_json(line[6:], strict=True)
    assert lines
    return len(lines)


def tamed(case: Case) -> Case:
    """Within the limits of a fake fleet with one small model, so that it is answered."""
    body = case.body
    if not isinstance(body, dict):
        return case
    if isinstance(body.get("model"), str):
        body["model"] = "auto"
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int):
            body[name] = 1 + abs(body[name]) % 32
    for name in ("n", "best_of"):
        if isinstance(body.get(name), int):
            body[name] = 1
    for name in UNSUPPORTED.get(case.path, ()):
        body.pop(name, None)
    if case.path == "/completions":
        # The document does not describe its stream.
        body.pop("stream", None)
        body["prompt"] = within_vocabulary(body.get("prompt") or "one two")
    elif case.path.startswith("/responses") and not body.get("input"):
        body["input"] = "one two"
    return case


def within_vocabulary(prompt: Any) -> Any:
    """A prompt whose token ids exist."""
    if isinstance(prompt, list):
        return [within_vocabulary(entry) for entry in prompt]
    return abs(prompt) % 1500 if isinstance(prompt, int) else prompt or "one"


def drive(url: str, label: str, mode: GenerationMode, example_count: int) -> Counter[int]:
    """Sends `example_count` requests of one operation; the statuses. Raises what a check found."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    method, _, path = label.partition(" ")
    operation = schema[path][method]
    statuses: Counter[int] = Counter()
    session = requests.Session()

    @settings(
        max_examples=example_count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        if mode is GenerationMode.POSITIVE:
            case = tamed(case)
        response = case.call(
            base_url=f"{url}/v1", headers={"x-api-key": KEY}, session=session, timeout=20
        )
        statuses[response.status_code] += 1
        is_unserved = label == "POST /embeddings" and response.status_code == 503
        case.validate_response(response, checks=list(CHECKS[is_unserved:]))
        if "text/event-stream" in str(response.headers.get("content-type")):
            check_events(case.path, response.text)

    with session:
        send()
    return statuses


@pytest.mark.parametrize("label", OPERATIONS)
async def test_requests_by_the_document(fleet: Any, label: str) -> None:
    await check(fleet.url, label, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("label", OPERATIONS)
async def test_many_requests_by_the_document(fleet: Any, label: str) -> None:
    await check(fleet.url, label, 400)


PLAIN_TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", {}),
    ("/chat/completions", {"n": 3, "stream_options": {"include_usage": True}}),
    ("/chat/completions", {"logprobs": True, "top_logprobs": 2}),
    ("/chat/completions", {"tools": PLAIN_TOOLS}),
    ("/responses", {"input": "hi"}),
    ("/responses", {"input": "hi", "max_output_tokens": 2}),
    ("/responses", {"input": "hi", "tools": [{"type": "function"} | PLAIN_TOOLS[0]["function"]]}),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_every_event_of_a_stream_is_as_described(
    fleet: Any, path: str, body: dict[str, Any]
) -> None:
    if path == "/chat/completions":
        body = {"messages": [{"role": "user", "content": "hi"}]} | body
    if "tools" in body:
        fleet.says('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1{path}", json={"model": "auto", "stream": True} | body) as got,
    ):
        assert got.status == 200, await got.text()
        assert check_events(path, await got.text()) > 3


async def check(url: str, label: str, example_count: int) -> None:
    positive = await asyncio.to_thread(drive, url, label, GenerationMode.POSITIVE, example_count)
    negative: Counter[int] = Counter()
    if label not in POSITIVE_ONLY:
        negative = await asyncio.to_thread(
            drive, url, label, GenerationMode.NEGATIVE, example_count
        )
    print(f"{label}: by the document {dict(positive)}, against it {dict(negative)}")
    assert positive[200] or label not in ANSWERED, positive
