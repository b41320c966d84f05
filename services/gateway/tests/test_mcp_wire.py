"""The MCP endpoint on the wire: older revisions, headers, origins, sessions, and nonsense."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

KEY = "k" * 64
BOTH = "application/json, text/event-stream"
HEADERS = {"x-api-key": KEY, "Accept": BOTH}
MODERN = "2026-07-28"


@pytest.fixture
async def http(fleet: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(base_url=fleet.url, headers=HEADERS) as session:
        yield session


def call(method: str, number: int = 1, /, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def initialize(version: str) -> dict[str, Any]:
    client = {"name": "test", "version": "1"}
    return call("initialize", protocolVersion=version, capabilities={}, clientInfo=client)


def modern(method: str, name: str = "", /, **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers that must match it."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    return call(method, **params, _meta=meta), headers | ({"Mcp-Name": name} if name else {})


async def message_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The last message of an answer, a stream or not."""
    if response.content_type == "application/json":
        return dict(await response.json())
    assert response.content_type == "text/event-stream", await response.text()
    lines = [line for line in (await response.text()).split("\r\n") if line.startswith("data: ")]
    return dict(json.loads(lines[-1].removeprefix("data: ")))


async def open_session(http: aiohttp.ClientSession, version: str) -> dict[str, str]:
    """The headers of a session that is ready."""
    async with http.post("/mcp", json=initialize(version)) as response:
        assert response.status == 200
        result = (await message_of(response))["result"]
        assert result["protocolVersion"] == version
        assert result["serverInfo"]["name"] == "shoal"
        headers = {
            "Mcp-Session-Id": response.headers["Mcp-Session-Id"],
            "MCP-Protocol-Version": version,
        }
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    async with http.post("/mcp", json=ready, headers=headers) as response:
        assert response.status == 202
    return headers


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_a_session_of_an_older_client(http: aiohttp.ClientSession, version: str) -> None:
    headers = await open_session(http, version)
    async with http.post("/mcp", json=call("tools/list", 2), headers=headers) as response:
        message = await message_of(response)
        assert message["id"] == 2
        assert len(message["result"]["tools"]) == 7
    asked = call("tools/call", 3, name="delegate", arguments={"prompt": "hi"})
    async with http.post("/mcp", json=asked, headers=headers) as response:
        result = (await message_of(response))["result"]
        assert result["content"] == [{"type": "text", "text": "hello"}]
        assert result["structuredContent"]["content"] == "hello"
    async with http.delete("/mcp", headers=headers) as response:
        assert response.status == 200
    async with http.post("/mcp", json=call("tools/list", 4), headers=headers) as response:
        assert response.status == 404
        assert "Session" in (await message_of(response))["error"]["message"]


async def test_a_plain_request_needs_neither_session_nor_stream(
    http: aiohttp.ClientSession,
) -> None:
    asked = call("tools/call", name="delegate", arguments={"prompt": "hi"})
    for accept in ("*/*", "application/json"):
        async with http.post("/mcp", json=asked, headers={"Accept": accept}) as response:
            assert response.status == 200
            assert response.content_type == "application/json"
            assert "Mcp-Session-Id" not in response.headers
            assert (await response.json())["result"]["structuredContent"]["content"] == "hello"


async def test_progress_comes_before_the_result_of_a_session(
    fleet: Any, http: aiohttp.ClientSession
) -> None:
    headers = await open_session(http, "2025-06-18")
    asked = call("tools/call", name="batch_prompts", arguments={"tasks": [{"prompt": "x"}] * 2})
    asked["params"]["_meta"] = {"progressToken": "p-1"}
    async with http.post("/mcp", json=asked, headers=headers) as response:
        text = await response.text()
    messages = [json.loads(line[6:]) for line in text.split("\r\n") if line.startswith("data: ")]
    assert [message.get("method") for message in messages[:2]] == ["notifications/progress"] * 2
    assert [message["params"]["progress"] for message in messages[:2]] == [1, 2]
    assert messages[0]["params"]["progressToken"] == "p-1"
    assert messages[2]["result"]["structuredContent"]["tasks_completed"] == 2


async def test_a_request_of_the_newest_revision_stands_for_itself(
    http: aiohttp.ClientSession,
) -> None:
    body, headers = modern("tools/call", "models", name="models", arguments={})
    async with http.post("/mcp", json=body, headers=headers) as response:
        assert response.status == 200
        assert "Mcp-Session-Id" not in response.headers
        message = await message_of(response)
    assert message["result"]["structuredContent"]["count"] == 1
    assert message["result"]["resultType"] == "complete"


WRONG_HEADERS = (
    {"Mcp-Method": "tools/list"},
    {"Mcp-Method": ""},
    {"Mcp-Name": "node_info"},
    {"MCP-Protocol-Version": "2027-01-01"},
)


async def test_headers_that_do_not_match_the_body_are_refused(http: aiohttp.ClientSession) -> None:
    body, headers = modern("tools/call", "models", name="models", arguments={})
    for wrong in WRONG_HEADERS:
        async with http.post("/mcp", json=body, headers=headers | wrong) as response:
            assert response.status == 400, wrong
            assert "error" in await message_of(response)


async def test_the_key_is_needed(fleet: Any) -> None:
    async with aiohttp.ClientSession(headers={"Accept": BOTH}) as session:
        for headers in ({}, {"x-api-key": "wrong"}, {"Authorization": "Bearer wrong"}):
            url = f"{fleet.url}/mcp"
            async with session.post(url, json=call("tools/list"), headers=headers) as response:
                assert response.status == 401
                body = await response.json()
                assert body["jsonrpc"] == "2.0"
                assert body["id"] is None
                assert body["error"]["data"]["reason"] == "UNAUTHENTICATED"


ORIGINS = {
    "http://localhost:6274": 200,
    "http://127.0.0.1:1": 200,
    "http://[::1]:3000": 200,
    "http://evil.example": 403,
    "http://localhost.evil.example": 403,
    "null": 403,
    "": 403,
    "http://[::1": 403,
    "file://localhost": 403,
}


async def test_pages_of_other_origins_are_refused(http: aiohttp.ClientSession) -> None:
    body, headers = modern("tools/list")
    for origin, status in ORIGINS.items():
        async with http.post("/mcp", json=body, headers=headers | {"Origin": origin}) as response:
            assert response.status == status, origin
            if status == 403:
                error = (await response.json())["error"]
                assert error["data"]["reason"] == "ORIGIN_REFUSED"


async def test_a_page_cannot_call_under_a_name_that_points_here(
    http: aiohttp.ClientSession,
) -> None:
    body, headers = modern("tools/list")
    rebound = {"Origin": "http://evil.example:8800", "Host": "evil.example:8800"}
    async with http.post("/mcp", json=body, headers=headers | rebound) as response:
        assert response.status == 403


async def test_other_origins_are_allowed_by_the_setting(start_fleet: Any) -> None:
    body, headers = modern("tools/list")
    async with (
        start_fleet(cors_origin=("https://pages.example",)) as fleet,
        aiohttp.ClientSession(base_url=fleet.url, headers=HEADERS | headers) as http,
    ):
        for origin, status in (("https://pages.example", 200), ("https://other.example", 403)):
            async with http.post("/mcp", json=body, headers={"Origin": origin}) as response:
                assert response.status == status


async def test_there_is_no_stream_to_get(http: aiohttp.ClientSession) -> None:
    async with http.get("/mcp") as response:
        assert response.status == 405
        assert {name.strip() for name in response.headers["Allow"].split(",")} == {"POST", "DELETE"}


async def test_a_body_that_is_too_large(http: aiohttp.ClientSession) -> None:
    async with http.post("/mcp", data=io.BytesIO(b" " * (33 * 1024 * 1024))) as response:
        assert response.status == 413
        assert (await response.json())["error"]["data"]["reason"] == "REQUEST_TOO_LARGE"


async def test_sessions_are_bounded(start_fleet: Any) -> None:
    async with (
        start_fleet(mcp_sessions_max=1) as fleet,
        aiohttp.ClientSession(base_url=fleet.url, headers=HEADERS) as http,
    ):
        headers = await open_session(http, "2025-11-25")
        async with http.post("/mcp", json=initialize("2025-11-25")) as response:
            assert response.status == 503
        async with http.delete("/mcp", headers=headers) as response:
            assert response.status == 200
        await open_session(http, "2025-11-25")


async def test_an_idle_session_makes_room(start_fleet: Any) -> None:
    async with (
        start_fleet(mcp_session_idle_s=0.05, mcp_sessions_max=1) as fleet,
        aiohttp.ClientSession(base_url=fleet.url, headers=HEADERS) as http,
    ):
        headers = await open_session(http, "2025-11-25")
        async with asyncio.timeout(10):
            status = 503
            while status == 503:
                async with http.post("/mcp", json=initialize("2025-11-25")) as response:
                    status = response.status
        assert status == 200
        async with http.post("/mcp", json=call("tools/list"), headers=headers) as response:
            assert response.status == 404


async def test_without_sessions_every_request_stands_for_itself(start_fleet: Any) -> None:
    async with (
        start_fleet(mcp_sessions_max=0) as fleet,
        aiohttp.ClientSession(base_url=fleet.url, headers=HEADERS) as http,
    ):
        async with http.post("/mcp", json=initialize("2025-11-25")) as response:
            assert response.status == 200
            assert "Mcp-Session-Id" not in response.headers
        async with http.post("/mcp", json=call("tools/list")) as response:
            assert len((await message_of(response))["result"]["tools"]) == 7


@pytest.mark.parametrize("era", ["session", "modern", "plain"])
async def test_a_client_that_goes_frees_the_stage(
    fleet: Any, http: aiohttp.ClientSession, era: str
) -> None:
    fleet.stage.hold = 0
    given = {"messages": [{"role": "user", "content": "hi"}]}
    body, headers = modern("tools/call", "chat", name="chat", arguments=given)
    if era == "session":
        headers = await open_session(http, "2025-11-25")
    elif era == "plain":
        headers = {"Accept": "application/json"}
    if era != "modern":
        body = call("tools/call", 9, name="chat", arguments=given)

    async def ask() -> None:
        async with http.post("/mcp", json=body, headers=headers) as response:
            await response.read()

    asking = asyncio.create_task(ask())
    await fleet.stage.is_holding.wait()
    asking.cancel()
    await asyncio.wait((asking,))
    await asyncio.wait_for(fleet.stage.is_cancelled.wait(), 10)
    await asyncio.wait_for(fleet.router.is_closed.wait(), 10)


async def test_a_cancelled_notification_frees_the_stage(
    fleet: Any, http: aiohttp.ClientSession
) -> None:
    fleet.stage.hold = 0
    headers = await open_session(http, "2025-06-18")
    given = {"messages": [{"role": "user", "content": "hi"}]}
    body = call("tools/call", 9, name="chat", arguments=given)

    async def ask() -> dict[str, Any]:
        async with http.post("/mcp", json=body, headers=headers) as response:
            return await message_of(response)

    asking = asyncio.create_task(ask())
    await fleet.stage.is_holding.wait()
    params = {"requestId": 9, "reason": "enough"}
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    async with http.post("/mcp", json=note, headers=headers) as response:
        assert response.status == 202
    await asyncio.wait_for(fleet.stage.is_cancelled.wait(), 10)
    assert (await asyncio.wait_for(asking, 10))["error"]["message"] == "Request cancelled"


NONSENSE: list[Any] = [
    None, True, 0, -1, 1e300, 2**70, "", "x", "\u0000", "é" * 300, [], {}, [[]], {"a": {}},
    "tools/call", "chat", "2.0", MODERN, {"name": "chat"}, {"name": "chat", "arguments": 3},
    {"name": "chat", "arguments": {"messages": 5}}, {"_meta": 7}, {"_meta": {"progressToken": []}},
    {"uri": "shoal://status"}, {"uri": 4}, "ping", "initialize", "resources/read", "tools/list",
]  # fmt: skip


def nonsense(draw: random.Random) -> Any:
    body: Any = {}
    for key in ("jsonrpc", "id", "method", "params", "result", "error", "extra"):
        if draw.random() < 0.7:
            body[key] = draw.choice(NONSENSE)
    if draw.random() < 0.5:
        body["jsonrpc"] = "2.0"
    if draw.random() < 0.5:
        body["method"] = draw.choice(["tools/call", "tools/list", "resources/read", "initialize"])
    return body if draw.random() < 0.9 else draw.choice(NONSENSE)


async def test_nonsense_is_never_a_fault_of_ours(fleet: Any, http: aiohttp.ClientSession) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    session = await open_session(http, "2025-11-25")
    _, newest = modern("tools/call", "chat")
    eras = [{}, session, newest, {"Accept": "*/*"}, {"Accept": "text/plain"}]
    raw = [b"", b"{", b"\xff\xfe", b"[1,2", b"NaN", b'"\\ud800"', b"[" * 5000, b'{"id": "\\ud800"}']
    for index in range(400):
        data = raw[index] if index < len(raw) else json.dumps(nonsense(draw)).encode()
        headers = draw.choice(eras) | {"Content-Type": "application/json"}
        if index % 7 == 0:
            headers |= {"Mcp-Session-Id": draw.choice(["", "x", "é", "y" * 2000])}
        async with asyncio.timeout(10), http.post("/mcp", data=data, headers=headers) as response:
            assert response.status < 500, (data, headers, await response.text())
            await response.read()
