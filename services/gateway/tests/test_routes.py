"""The routes beside chat."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from shoal.router.v1 import router_pb2
from shoal_gateway.settings import Settings

KEY = "k" * 64


async def get(url: str, key: str = "") -> tuple[int, Any]:
    headers = {"x-api-key": key} if key else {}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else await response.text()


async def test_models_are_listed_and_shown(fleet: Any) -> None:
    status, models = await get(f"{fleet.url}/v1/models", KEY)
    assert status == 200
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["heavyweight"]
    assert (await get(f"{fleet.url}/v1/models/heavyweight", KEY))[1] == models["data"][0]
    assert (await get(f"{fleet.url}/v1/models/other/name", KEY))[0] == 404
    assert (await get(f"{fleet.url}/v1/models"))[0] == 401


async def test_models_show_the_fleet_of_now(fleet: Any) -> None:
    assert (await get(f"{fleet.url}/v1/models", KEY))[1]["data"][0]["is_ready"] is True
    fleet.router.is_ready = False
    assert (await get(f"{fleet.url}/v1/models", KEY))[1]["data"][0]["is_ready"] is False
    assert (await get(f"{fleet.url}/v1/models/heavyweight", KEY))[1]["is_ready"] is False


@pytest.mark.parametrize(
    ("readiness", "state", "percent"),
    [
        (router_pb2.MODEL_READINESS_LOADABLE, "loadable", None),
        (router_pb2.MODEL_READINESS_LOADING, "loading", 40),
        (router_pb2.MODEL_READINESS_INCOMPLETE, "incomplete", None),
        (router_pb2.MODEL_READINESS_UNSPECIFIED, "incomplete", None),
    ],
)
async def test_a_model_that_is_not_ready_says_what_it_is(
    fleet: Any, readiness: router_pb2.ModelReadiness, state: str, percent: int | None
) -> None:
    fleet.router.is_ready = False
    fleet.router.readiness, fleet.router.loading_percent = readiness, 40
    model = (await get(f"{fleet.url}/v1/models", KEY))[1]["data"][0]
    assert (model["is_ready"], model["state"], model["loading_percent"]) == (False, state, percent)


async def test_health_needs_no_key(fleet: Any) -> None:
    assert (await get(f"{fleet.url}/health"))[0] == 200
    status, body = await get(f"{fleet.url}/health/ready")
    assert status == 200
    assert body["ready"] is True
    assert body["subsystems"]["inference_router"] is True


async def test_not_ready_without_a_ready_model(start_fleet: Any) -> None:
    async with start_fleet() as fleet:
        fleet.router.is_ready = False
        status, body = await get(f"{fleet.url}/health/ready")
    assert status == 503
    assert body["ready"] is False
    assert body["subsystems"] == {"api_server": True, "inference_router": True, "models": False}


async def test_ready_with_a_model_that_is_loaded_on_demand(start_fleet: Any) -> None:
    async with start_fleet() as fleet:
        fleet.router.is_ready, fleet.router.is_loadable = False, True
        assert (await get(f"{fleet.url}/health/ready"))[0] == 200


async def test_metrics_count_requests_and_tokens(fleet: Any) -> None:
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(
            f"{fleet.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hi"}]},
        ) as response,
    ):
        assert response.status == 200
    status, text = await get(f"{fleet.url}/metrics")
    assert status == 200
    assert 'shoal_gateway_requests_total{outcome="ok",route="/v1/chat/completions"} 1.0' in text
    assert "shoal_gateway_time_to_first_token_seconds_count 1.0" in text
    assert 'shoal_gateway_tokens_total{kind="completion"}' in text
    assert 'le="600.0"' in text


async def test_metrics_move_and_stay_open(start_fleet: Any) -> None:
    async with start_fleet(metrics_path="/internal/figures") as fleet:
        status, text = await get(f"{fleet.url}/internal/figures")
        assert (status, "shoal_gateway_requests_total" in text) == (200, True)
        assert (await get(f"{fleet.url}/metrics"))[0] == 401


async def test_metrics_that_are_off_say_so(start_fleet: Any) -> None:
    async with start_fleet(metrics_enabled=False) as fleet:
        status, text = await get(f"{fleet.url}/metrics")
        assert status == 404
        assert "metrics_enabled" in text["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/api/admin/keys", "/health", "/", "//v1/models"])
def test_metrics_open_no_other_route(path: str) -> None:
    with pytest.raises(ValidationError, match="has routes already"):
        Settings(metrics_path=path)
