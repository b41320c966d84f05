"""How the cascade's bench asks, and the provider that answers late."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.cascade import CascadeBench
from bench.cascade_asking import CascadeClient, Said, tokens_of
from bench.figures import Report
from bench.slow_upstream import slow_upstream
from shoal_entropy_drafter.calibration.cases import Answered, Parameters
from shoal_entropy_drafter.calibration.prompts import Call, LabelledPrompt

PROMPT = LabelledPrompt("a", ({"role": "user", "content": "Capital of France?"},), "It is Paris.")
USAGE = {
    "completion_tokens": 4,
    "by_model": {"drafter": {"completion_tokens": 3}, "heavyweight": {"completion_tokens": 4}},
}
CALL = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"at"'}}


def chunk(delta: dict[str, Any], **more: Any) -> str:
    return f"data: {json.dumps({'choices': [{'delta': delta}], **more})}\n\n"


class Gateway:
    """Answers every chat; keeps the bodies it got. `gate` holds answers back while it is clear."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.keys: list[str] = []
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        self.arrived.set()
        await self.gate.wait()
        headers = {"x-shoal-answered-by": "heavyweight"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "It is Paris."}
            answer = {"choices": [{"message": message}], "usage": USAGE}
            return web.json_response(answer, headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write("".join(self.events).encode())
        return response


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    fake, application = Gateway(), web.Application()
    application.router.add_post("/v1/chat/completions", fake.chat)
    async with TestServer(application) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


async def ask(gateway: Gateway, is_stream: bool) -> Said:
    async with CascadeClient(gateway.url, "key", "cascade") as client:
        return await client.ask(PROMPT, is_stream)


async def test_a_whole_answer_tells_who_answered_and_what_it_took(gateway: Gateway) -> None:
    said = await ask(gateway, is_stream=False)
    assert (said.text, said.answered_by) == ("It is Paris.", "heavyweight")
    assert said.tokens == {"drafter": 3, "heavyweight": 4}
    assert 0 < said.first_s <= said.wall_s
    assert (gateway.bodies[0]["model"], gateway.bodies[0]["temperature"]) == ("cascade", 0)


async def test_a_stream_tells_the_same(gateway: Gateway) -> None:
    gateway.events = [
        chunk({"role": "assistant"}),
        chunk({"content": "It is "}),
        chunk({"content": "Paris."}),
        ": x-shoal-answered-by: mixed\n: x-shoal-entropy: 0.9\n\n",
        f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
        "data: [DONE]\n\n",
    ]
    said = await ask(gateway, is_stream=True)
    assert (said.text, said.answered_by) == ("It is Paris.", "mixed")
    assert said.tokens == {"drafter": 3, "heavyweight": 4}


async def test_calls_are_put_together(gateway: Gateway) -> None:
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    gateway.events = [
        chunk({"tool_calls": [CALL]}),
        chunk({"tool_calls": [rest]}),
        f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
    ]
    assert (await ask(gateway, is_stream=True)).calls == (Call("look", {"at": 1}),)


async def test_a_stream_that_fails_is_no_answer(gateway: Gateway) -> None:
    gateway.events = ['data: {"error": {"message": "lost"}}\n\n']
    with pytest.raises(aiohttp.ClientPayloadError, match="lost"):
        await ask(gateway, is_stream=True)


def test_tokens_of_an_answer_that_one_model_gave_alone() -> None:
    assert tokens_of({"completion_tokens": 7}, "heavyweight") == {"heavyweight": 7}


async def test_the_late_provider_asks_the_model_behind_it(gateway: Gateway) -> None:
    async with slow_upstream("faraway", "heavyweight", 0.0) as upstream:
        upstream.target_url, upstream.key = gateway.url, "its own"
        async with CascadeClient(upstream.url.removesuffix("/v1"), "mine", "faraway") as client:
            said = await client.ask(PROMPT, is_stream=False)
    assert said.text == "It is Paris."
    assert gateway.bodies[0]["model"] == "heavyweight"
    assert gateway.keys == ["Bearer its own"]
    assert (upstream.asked, upstream.cancelled) == (1, 0)


async def test_the_late_provider_notices_callers_that_leave(gateway: Gateway) -> None:
    gateway.gate.clear()
    async with slow_upstream("faraway", "heavyweight", 0.0) as upstream:
        upstream.target_url = gateway.url
        async with CascadeClient(upstream.url.removesuffix("/v1"), "mine", "faraway") as client:
            asking = asyncio.create_task(client.ask(PROMPT, is_stream=False))
            await gateway.arrived.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        gateway.gate.set()
    assert upstream.cancelled == 1


def test_costs_count_both_models_and_accuracy_is_the_heavyweights_share() -> None:
    bench = CascadeBench(parameters=Parameters(1.0, 10.0))
    other = LabelledPrompt("b", ({"role": "user", "content": "?"},), "No.")
    bench.heavies = {
        PROMPT.key: Answered("It is Paris.", (), 10, 1.0),
        other.key: Answered("No.", (), 10, 1.0),
    }
    said = [
        Said("It is Paris.", (), "drafter", {"drafter": 10}, 0.1, 0.2),
        Said("Yes.", (), "heavyweight", {"drafter": 2, "heavyweight": 10}, 0.3, 1.2),
    ]
    report = Report("answers")
    bench._note(report, "whole", [PROMPT, other], said, targets=True)
    values = {figure.name: figure.value for figure in report.figures}
    assert values["whole: accuracy to the heavyweight's"] == 0.5
    assert values["whole: cost"] == pytest.approx((10 + 2 + 100) / 200)
    assert values["whole: wall time"] == pytest.approx(0.7)
    assert [figure.verdict for figure in report.figures[:2]] == ["missed", "missed"]
