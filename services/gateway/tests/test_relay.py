"""What the gateway tells of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

KEY = {"x-api-key": "k" * 64}
CHAT = {"messages": [{"role": "user", "content": "a private question"}]}


@pytest.fixture
async def session() -> Any:
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


async def get(session: Any, url: str, **headers: str) -> tuple[int, Any]:
    async with session.get(url, headers=headers) as response:
        return response.status, await response.json()


async def chat(session: Any, fleet: Any, **more: Any) -> str:
    """The request's id."""
    url = f"{fleet.url}/v1/chat/completions"
    async with session.post(url, json=CHAT | more) as response:
        await response.read()
        return response.headers["x-request-id"]


async def test_every_page_needs_a_key(fleet: Any) -> None:
    async with aiohttp.ClientSession() as stranger:
        for page in ("status", "metrics", "stats", "requests", "requests/x", "capabilities"):
            assert (await get(stranger, f"{fleet.url}/relay/{page}"))[0] == 401, page


async def test_status(fleet: Any, session: Any) -> None:
    status, body = await get(session, f"{fleet.url}/relay/status")
    assert status == 200
    assert (body["status"], body["router"], body["in_flight"]) == ("ok", "up", 0)
    assert body["models"] == [{"id": "heavyweight", "is_ready": True}]


async def test_a_request_is_found_with_its_tokens(fleet: Any, session: Any) -> None:
    request_id = await chat(session, fleet)
    status, entry = await get(session, f"{fleet.url}/relay/requests/{request_id}")
    assert status == 200
    assert entry["route"] == "/v1/chat/completions"
    assert (entry["caller"], entry["model"], entry["status"]) == ("house", "heavyweight", 200)
    assert entry["prompt_tokens"] > 0
    assert entry["completion_tokens"] > 0
    assert entry["duration_s"] > 0
    assert "private" not in str(entry)
    _, listed = await get(session, f"{fleet.url}/relay/requests?limit=1")
    # The list itself is the newest request.
    assert [entry["route"] for entry in listed["data"]] == ["/relay/requests"]
    assert (await get(session, f"{fleet.url}/relay/requests/req-unknown"))[0] == 404
    assert (await get(session, f"{fleet.url}/relay/requests?limit=no"))[0] == 400


async def test_strangers_push_nobody_out_of_the_history(start_fleet: Any, session: Any) -> None:
    async with start_fleet(request_history_limit=2) as fleet:
        request_id = await chat(session, fleet)
        async with aiohttp.ClientSession() as stranger:
            for _ in range(3):
                assert (await get(stranger, f"{fleet.url}/v1/models"))[0] == 401
        assert (await get(session, f"{fleet.url}/relay/requests/{request_id}"))[0] == 200
        _, stats = await get(session, f"{fleet.url}/relay/stats")
        assert stats["requests"]["refused"] == 3


async def test_a_running_request_is_listed_with_its_caller(fleet: Any, session: Any) -> None:
    fleet.stage.hold = 0
    running = asyncio.create_task(chat(session, fleet))
    await fleet.stage.is_holding.wait()
    _, listed = await get(session, f"{fleet.url}/relay/requests")
    entry = listed["data"][1]
    assert (entry["outcome"], entry["status"], entry["caller"]) == ("running", 0, "house")
    assert entry["model"] == "heavyweight"
    running.cancel()
    await fleet.stage.is_cancelled.wait()


async def test_stats_and_metrics(fleet: Any, session: Any) -> None:
    await chat(session, fleet, stream=True)
    await chat(session, fleet, temperature="hot")
    _, stats = await get(session, f"{fleet.url}/relay/stats")
    assert stats["requests"] == {"ok": 1, "refused": 1}
    assert stats["models"]["heavyweight"]["answers"] == 1
    assert stats["models"]["heavyweight"]["completion_tokens"] > 0
    _, metrics = await get(session, f"{fleet.url}/relay/metrics")
    route = "/v1/chat/completions"
    wanted = {
        "name": "shoal_gateway_requests_total",
        "labels": {"route": route, "outcome": "ok"},
        "value": 1.0,
    }
    assert wanted in metrics["data"]


async def test_capabilities(fleet: Any, session: Any) -> None:
    _, body = await get(session, f"{fleet.url}/relay/capabilities")
    assert "/v1/chat/completions" in body["routes"]
    assert body["models"] == [{"id": "heavyweight", "ctx_size": 512}]


async def test_bodies_are_kept_when_asked_for_and_shown_to_admins_only(
    start_fleet: Any, session: Any
) -> None:
    async with start_fleet(observability_capture_body=True) as fleet:
        async with session.post(
            f"{fleet.url}/api/admin/keys", json={"name": "eyes", "scopes": ["observe"]}
        ) as response:
            eyes = (await response.json())["key"]
        request_id = await chat(session, fleet, stream=True)
        url = f"{fleet.url}/relay/requests/{request_id}"
        _, seen = await get(session, url)
        assert "a private question" in seen["request_body"]
        assert seen["reply_text"] == "hello"
        status, seen = await get(session, url, **{"x-api-key": eyes})
        assert status == 200
        assert "request_body" not in seen


async def test_it_can_be_turned_off(start_fleet: Any, session: Any) -> None:
    async with start_fleet(observability_enabled=False) as fleet:
        assert (await get(session, f"{fleet.url}/relay/status"))[0] == 404


async def test_posts_have_a_limit_of_their_own(start_fleet: Any, session: Any) -> None:
    async with start_fleet(rate_limit_relay_post_rpm=1) as fleet:
        statuses = []
        for _ in range(2):
            async with session.post(f"{fleet.url}/relay/status") as response:
                statuses.append(response.status)
        assert statuses == [405, 429]
        assert (await get(session, f"{fleet.url}/relay/status"))[0] == 200
