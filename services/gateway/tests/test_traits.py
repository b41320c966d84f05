"""What a model's small files say, and what becomes of it in lists and refusals."""

from __future__ import annotations

import base64
import json
from typing import Any

import aiohttp
import pytest

from shoal_common.errors import PlanUnavailable
from shoal_gateway.traits import EFFORTS, SWITCH, ModelTraits, traits_of

KEY = "k" * 64
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ModelTraits()),
        ({"config.json": b'{"vision_config": {"depth": 2}}'}, ModelTraits(True)),
        ({"config.json": b'{"vision_config": null}'}, ModelTraits()),
        ({"config.json": b"{"}, ModelTraits()),
        ({"config.json": b"[" * 100_000}, ModelTraits()),
        (
            {"chat_template.jinja": b"{% if enable_thinking %}"},
            ModelTraits(False, ("on", "off")),
        ),
        (
            {"tokenizer_config.json": b'{"chat_template": "{{ reasoning_effort }}"}'},
            ModelTraits(False, ("low", "medium", "high")),
        ),
    ],
)
def test_traits_come_from_the_files_that_can_be_read(
    files: dict[str, bytes], expected: ModelTraits
) -> None:
    assert traits_of(files) == expected


async def ask(fleet: Any, path: str, body: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, fleet.url + path, json=body) as response:
            return response.status, await response.json()


def with_image(url: str = f"data:image/png;base64,{PIXEL}") -> dict[str, Any]:
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


async def test_lists_show_context_images_and_thinking(start_fleet: Any) -> None:
    async with start_fleet(template="{{ enable_thinking }}") as fleet:
        _, models = await ask(fleet, "/v1/models")
        _, model = await ask(fleet, "/v1/models/heavyweight")
    assert models["data"] == [model]
    assert model["ctx_size"] == model["context_length"] == 512
    assert model["multimodal"] is False
    assert model["thinking_levels"] == ["on", "off"]


async def test_lists_do_not_need_the_shard_store(fleet: Any) -> None:
    await fleet.store_server.stop()
    status, models = await ask(fleet, "/v1/models")
    assert status == 200
    assert models["data"][0]["thinking_levels"] == []


async def test_a_text_model_refuses_images(fleet: Any) -> None:
    status, body = await ask(fleet, "/v1/chat/completions", with_image())
    assert (status, body["error"]["param"]) == (400, "messages[0].content")
    assert fleet.stage.requests == []


async def test_a_vision_model_says_that_nobody_holds_its_encoder(fleet: Any) -> None:
    config = json.loads(fleet.store.files["config.json"])
    config["vision_config"] = {"hidden_size": 64}
    fleet.store.files["config.json"] = json.dumps(config).encode()
    assert (await ask(fleet, "/v1/models"))[1]["data"][0]["multimodal"] is True
    status, body = await ask(fleet, "/v1/chat/completions", with_image())
    assert (status, body["error"]["code"]) == (503, "vision_encoder_unavailable")


async def test_status_tells_models_and_what_is_in_flight(fleet: Any) -> None:
    status, body = await ask(fleet, "/v1/status")
    assert status == 200
    assert (body["status"], body["ready"], body["problem"]) == ("ready", True, None)
    assert body["version"]
    assert body["requests_in_flight"] == 0
    assert [(model["id"], model["state"]) for model in body["models"]] == [("heavyweight", "ready")]


async def test_status_answers_when_the_router_does_not(fleet: Any) -> None:
    await fleet.router_server.stop()
    status, body = await ask(fleet, "/v1/status")
    assert status == 200
    assert (body["status"], body["models"]) == ("degraded", [])
    assert body["problem"]


async def test_status_needs_the_key(fleet: Any) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{fleet.url}/v1/status") as answer:
        assert answer.status == 401


@pytest.mark.parametrize("name", ["functions", "audio", "web_search_options"])
async def test_fields_that_would_change_the_answer_are_refused_by_name(
    fleet: Any, name: str
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], name: {"a": 1}}
    status, answer = await ask(fleet, "/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, name)


async def test_a_plan_error_of_one_prompt_is_the_answer_to_all(fleet: Any) -> None:
    fleet.router.error = PlanUnavailable("nobody holds layers 2 to 4")
    status, _ = await ask(fleet, "/v1/completions", {"prompt": ["a", "b"]})
    assert status == 503


@pytest.mark.parametrize(
    ("levels", "asked", "nearest"),
    [
        ((), "xhigh", "xhigh"),
        (EFFORTS, "", ""),
        (EFFORTS, "medium", "medium"),
        (EFFORTS, "off", "low"),
        (EFFORTS, "minimal", "low"),
        (EFFORTS, "xhigh", "high"),
        (EFFORTS, "max", "high"),
        (EFFORTS, "on", "on"),
        (("low", "high"), "medium", "low"),
        (("off", "high"), "minimal", "high"),
        (("on", "off", "high"), "low", "high"),
        (SWITCH, "off", "off"),
        (SWITCH, "high", "high"),
        (("on",), "off", "on"),
        (("off",), "high", "off"),
        (("off",), "on", "off"),
    ],
)
def test_levels_lead_to_the_nearest(levels: tuple[str, ...], asked: str, nearest: str) -> None:
    assert ModelTraits(thinking_levels=levels).nearest_level(asked) == nearest
