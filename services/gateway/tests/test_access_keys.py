"""Named keys over HTTP, from creation to the end of their budget."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from shoal_common.testing.redis import start_redis

HOUSE = {"Authorization": f"Bearer {'k' * 64}"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Client:
    """A few calls of one gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def call(
        self, method: str, path: str, key: str = "", **body: Any
    ) -> tuple[int, Any, Any]:
        """Status, body and headers."""
        headers = {"x-api-key": key} if key else HOUSE
        async with self._session.request(
            method, self._url + path, headers=headers, json=body or None
        ) as response:
            return response.status, await response.json(), response.headers

    async def create(self, **body: Any) -> Any:
        status, made, _ = await self.call("POST", "/api/admin/keys", **body)
        assert status == 201, made
        return made

    async def chat(self, key: str) -> tuple[int, Any, Any]:
        return await self.call("POST", "/v1/chat/completions", key, **CHAT)


@pytest.fixture
async def session() -> Any:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_key_is_shown_once_and_works_until_revoked(fleet: Any, session: Any) -> None:
    client = Client(fleet.url, session)
    made = await client.create(name="ci")
    assert made["scopes"] == ["chat", "embeddings", "models", "mcp"]
    assert (await client.chat(made["key"]))[0] == 200
    _, listed, _ = await client.call("GET", "/api/admin/keys")
    (entry,) = listed["data"]
    assert "key" not in entry
    assert (entry["id"], entry["name"], entry["revoked_at"]) == (made["id"], "ci", None)
    status, revoked, _ = await client.call("DELETE", f"/api/admin/keys/{made['id']}")
    assert status == 200
    assert revoked["revoked_at"] is not None
    status, body, _ = await client.chat(made["key"])
    assert (status, body["error"]["code"]) == (401, "unauthenticated")
    assert (await client.call("DELETE", f"/api/admin/keys/{made['id']}"))[0] == 404


async def test_a_rotated_key_has_another_secret_at_once(fleet: Any, session: Any) -> None:
    client = Client(fleet.url, session)
    made = await client.create(name="ci")
    assert (await client.chat(made["key"]))[0] == 200
    _, rotated, _ = await client.call("POST", f"/api/admin/keys/{made['id']}/rotate")
    assert rotated["id"] == made["id"]
    assert (await client.chat(made["key"]))[0] == 401
    assert (await client.chat(rotated["key"]))[0] == 200


async def test_scopes_hold_on_every_route(fleet: Any, session: Any) -> None:
    client = Client(fleet.url, session)
    reader = (await client.create(name="reader", scopes=["models"]))["key"]
    assert (await client.call("GET", "/v1/models", reader))[0] == 200
    for method, path in [
        ("POST", "/v1/chat/completions"),
        ("GET", "/api/admin/keys"),
        ("GET", "/relay/status"),
        ("POST", "/mcp"),
    ]:
        status, body, _ = await client.call(method, path, reader)
        assert status == 403, path
        assert "scope" in str(body), path
    admin = (await client.create(name="root", scopes=["admin"]))["key"]
    assert (await client.call("GET", "/api/admin/keys", admin))[0] == 200
    assert (await client.chat(admin))[0] == 200


async def test_a_wrong_key_is_not_made(fleet: Any, session: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a", "scopes": ["root"]}, "scopes"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "monthly_token_budget": -1}, "monthly_token_budget"),
        ({"name": "a", "color": "red"}, "color"),
    ]
    url = f"{fleet.url}/api/admin/keys"
    for body, param in wrong:
        async with session.post(url, headers=HOUSE, json=body) as response:
            assert response.status == 400, body
            assert (await response.json())["error"]["param"] == param, body
    assert (await Client(fleet.url, session).call("GET", "/api/admin/keys"))[1]["data"] == []


async def test_a_budget_ends_with_a_clear_error_that_is_not_retried(
    fleet: Any, session: Any
) -> None:
    client = Client(fleet.url, session)
    made = await client.create(name="small", monthly_token_budget=1)
    assert (await client.chat(made["key"]))[0] == 200
    status, body, headers = await client.chat(made["key"])
    assert (status, body["error"]["code"]) == (429, "budget_exceeded")
    assert headers["x-should-retry"] == "false"
    assert "Retry-After" not in headers
    # Looking is free.
    assert (await client.call("GET", "/v1/models", made["key"]))[0] == 200


async def test_the_caller_is_the_tenant_of_its_tasks(fleet: Any, session: Any) -> None:
    client = Client(fleet.url, session)
    made = await client.create(name="ci", tenant="team")
    await client.chat(made["key"])
    await client.chat("")
    tenants = [request.tenant for request in fleet.stage.requests]
    assert tenants[0] == "team"
    assert tenants[1] != "team"


async def test_two_gateways_share_keys_and_rates(
    start_fleet: Any, session: Any, tmp_path: Any
) -> None:
    with start_redis(tmp_path) as redis:
        limits = {"redis_url": redis.url, "rate_limit_rpm": 5}
        async with start_fleet(**limits) as one, start_fleet(**limits) as two:
            here, there = Client(one.url, session), Client(two.url, session)
            key = (await here.create(name="ci"))["key"]
            calls = [client.chat(key) for client in (here, there) * 4]
            answers = await asyncio.gather(*calls)
            statuses = sorted(status for status, _, _ in answers)
            assert statuses == [200] * 5 + [429] * 3
            redis.kill()
            # Each grants its own now, and nobody waits or fails.
            answers = [await client.chat(key) for client in (here, there)]
            assert [status for status, _, _ in answers] == [200, 200]


async def test_no_secret_reaches_the_logs(
    fleet: Any, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client(fleet.url, session)
    made = await client.create(name="ci")
    await client.chat(made["key"])
    await client.chat(made["key"] + "x")
    rotated = (await client.call("POST", f"/api/admin/keys/{made['id']}/rotate"))[1]["key"]
    await client.chat(rotated)
    assert len(caplog.records) >= 5
    written = "\n".join(str(vars(record)) for record in caplog.records)
    for secret in (made["key"], rotated, "k" * 64, "sk-shoal-"):
        assert secret not in written
