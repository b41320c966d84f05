"""What holds for every route: headers, hosts, origins, rates, sessions, unknown fields."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from shoal_common.errors import Unavailable
from shoal_common.testing.clock import FakeClock
from shoal_gateway.access.rates import Allowance
from shoal_gateway.app import running
from shoal_gateway.errors import StartupProbeFailed
from shoal_gateway.http.headers import rate_headers
from shoal_gateway.settings import Settings

HOUSE_KEY = "k" * 64
KEY = {"x-api-key": HOUSE_KEY}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def session() -> Any:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(session: Any, method: str, url: str, **more: Any) -> tuple[int, Any, Any]:
    """Status, body and headers."""
    async with session.request(method, url, **more) as response:
        is_json = response.content_type == "application/json"
        body = await response.json() if is_json else await response.text()
        return response.status, body, response.headers


async def chat(session: Any, fleet: Any, headers: Any = KEY, **more: Any) -> tuple[int, Any, Any]:
    url = f"{fleet.url}/v1/chat/completions"
    return await ask(session, "POST", url, headers=headers, json=CHAT | more)


async def named_key(session: Any, fleet: Any, **more: Any) -> dict[str, str]:
    url = f"{fleet.url}/api/admin/keys"
    _, made, _ = await ask(session, "POST", url, headers=KEY, json={"name": "ci"} | more)
    return {"x-api-key": made["key"]}


async def test_every_answer_has_the_security_headers_and_an_id(fleet: Any, session: Any) -> None:
    answers = [
        await ask(session, "GET", f"{fleet.url}/health"),
        await ask(session, "GET", f"{fleet.url}/v1/models"),
        await ask(session, "GET", f"{fleet.url}/nowhere", headers=KEY),
        await chat(session, fleet),
        await chat(session, fleet, stream=True),
    ]
    assert [status for status, _, _ in answers] == [200, 401, 404, 200, 200]
    for _, _, headers in answers:
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["x-request-id"] == headers["request-id"]
        assert headers.getall("Server") == ["shoal"]
    assert len({headers["request-id"] for _, _, headers in answers}) == len(answers)


async def test_a_clients_own_id_comes_back_beside_ours(fleet: Any, session: Any) -> None:
    _, _, headers = await chat(session, fleet, KEY | {"x-request-id": "mine"})
    assert headers["x-client-request-id"] == "mine"
    assert headers["x-request-id"] != "mine"
    _, _, headers = await chat(session, fleet, KEY | {"x-request-id": "a b"})
    assert "x-client-request-id" not in headers


async def test_the_sdks_find_their_request_id(fleet: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=HOUSE_KEY) as client:
        answer = await client.chat.completions.create(model="auto", messages=CHAT["messages"])
        assert answer._request_id is not None
        assert answer._request_id.startswith("req-")


async def test_only_listed_hosts_are_answered(start_fleet: Any, session: Any) -> None:
    async with start_fleet(allowed_hosts=("api.example.com",)) as fleet:
        url = f"{fleet.url}/v1/models"
        status, body, _ = await ask(session, "GET", url, headers=KEY)
        assert (status, body["error"]["code"]) == (421, "wrong_host")
        named = KEY | {"Host": "api.example.com"}
        assert (await ask(session, "GET", url, headers=named))[0] == 200
        # Probes name an address.
        assert (await ask(session, "GET", f"{fleet.url}/health"))[0] == 200


async def test_a_page_of_an_allowed_origin_may_ask(start_fleet: Any, session: Any) -> None:
    async with start_fleet(cors_origin=("https://app.example.com/",)) as fleet:
        url = f"{fleet.url}/v1/chat/completions"
        question = {
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, x-stainless-lang",
        }
        status, _, headers = await ask(session, "OPTIONS", url, headers=question)
        assert status == 204
        assert headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-lang"
        assert "POST" in headers["Access-Control-Allow-Methods"]
        origin = {"Origin": "https://app.example.com"}
        status, _, headers = await chat(session, fleet, KEY | origin, stream=True)
        assert headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert "x-request-id" in headers["Access-Control-Expose-Headers"]
        assert headers["Vary"] == "Origin"
        for stranger in ("https://evil.example.com", "null"):
            _, _, headers = await ask(
                session, "OPTIONS", url, headers=question | {"Origin": stranger}
            )
            assert "Access-Control-Allow-Origin" not in headers
        # The key is needed all the same.
        assert (await chat(session, fleet, origin))[0] == 401


async def test_no_page_may_ask_by_default(fleet: Any, session: Any) -> None:
    origin = {"Origin": "https://app.example.com"}
    _, _, headers = await chat(session, fleet, KEY | origin)
    assert "Access-Control-Allow-Origin" not in headers


async def test_rates_are_told_in_both_vendors_words(start_fleet: Any, session: Any) -> None:
    async with start_fleet(rate_limit_rpm=2) as fleet:
        key = await named_key(session, fleet)
        answers = [await chat(session, fleet, key) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    _, _, headers = answers[0]
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["anthropic-ratelimit-requests-remaining"] == "1"
    _, body, headers = answers[2]
    assert body["error"]["code"] == "rate_limited"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= 30


def test_resets_are_a_duration_and_a_moment() -> None:
    now = FakeClock().time()
    headers = rate_headers(Allowance(limit=60, remaining=58, reset_s=1.5), now)
    assert headers["x-ratelimit-reset-requests"] == "1.500s"
    moment = datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"])
    assert moment.timestamp() == now + 2


async def test_the_house_has_no_limit_unless_it_is_given_one(
    start_fleet: Any, session: Any
) -> None:
    async with start_fleet(rate_limit_rpm=1) as fleet:
        statuses = [(await chat(session, fleet))[0] for _ in range(3)]
        assert statuses == [200, 200, 200]
    async with start_fleet(rate_limit_house_rpm=1) as fleet:
        assert [(await chat(session, fleet))[0] for _ in range(2)] == [200, 429]
        # Health is free.
        assert (await ask(session, "GET", f"{fleet.url}/health"))[0] == 200


async def test_whoever_guesses_keys_is_slowed_down_by_address(
    start_fleet: Any, session: Any
) -> None:
    async with start_fleet(rate_limit_rpm=2, trusted_proxies=("127.0.0.0/8",)) as fleet:
        key = await named_key(session, fleet)

        async def guess(address: str, **shown: str) -> int:
            headers = {"x-api-key": "wrong", "X-Forwarded-For": address} | shown
            return (await chat(session, fleet, headers))[0]

        assert [await guess("1.1.1.1") for _ in range(3)] == [401, 401, 429]
        # A forged hop to the left is a claim of the client.
        assert await guess("2.2.2.2, 1.1.1.1") == 429
        assert await guess("2.2.2.2") == 401
        # Who has a key is not held up by a neighbour's guesses.
        assert (await chat(session, fleet, KEY | {"X-Forwarded-For": "1.1.1.1"}))[0] == 200
        await chat(session, fleet, key)
        assert await guess("1.1.1.1", **key) == 200


async def test_a_spoofed_address_helps_nobody(start_fleet: Any, session: Any) -> None:
    async with start_fleet(rate_limit_rpm=2) as fleet:
        statuses = []
        for index in range(4):
            headers = {"x-api-key": "wrong", "X-Forwarded-For": f"1.1.1.{index}"}
            statuses.append((await chat(session, fleet, headers))[0])
    assert statuses == [401, 401, 429, 429]


async def test_the_sdks_wait_and_try_again(start_fleet: Any, session: Any) -> None:
    async with start_fleet(rate_limit_rpm=60) as fleet:
        key = await named_key(session, fleet)
        statuses: list[int] = []

        async def note(response: Any) -> None:
            statuses.append(response.status_code)

        async with openai.AsyncOpenAI(
            base_url=f"{fleet.url}/v1", api_key=key["x-api-key"], max_retries=5
        ) as client:
            client._client.event_hooks["response"].append(note)
            # On a slow machine a token may be back before the client asks.
            while 429 not in statuses:
                while (await ask(session, "GET", f"{fleet.url}/v1/models", headers=key))[0] != 429:
                    pass
                await client.chat.completions.create(model="auto", messages=CHAT["messages"])
        assert statuses[-1] == 200


async def test_requests_at_once_are_bounded(start_fleet: Any, session: Any) -> None:
    async with start_fleet(max_concurrent_requests=1) as fleet:
        fleet.stage.hold = 0
        first = asyncio.create_task(chat(session, fleet))
        await fleet.stage.is_holding.wait()
        status, body, headers = await chat(session, fleet)
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert headers["Retry-After"] == "1"
        # Looking takes no place.
        assert (await ask(session, "GET", f"{fleet.url}/v1/models", headers=KEY))[0] == 200
        first.cancel()
        await fleet.stage.is_cancelled.wait()
        fleet.stage.hold = None
        while (await chat(session, fleet))[0] == 429:
            pass


async def test_the_first_session_header_wins(fleet: Any, session: Any) -> None:
    cases: list[tuple[dict[str, str], dict[str, str], str]] = [
        ({"session-id": "a", "session_id": "b"}, {}, "a"),
        ({"session_id": "b", "x-session-affinity": "c"}, {}, "b"),
        ({"x-session-affinity": "c", "x-client-request-id": "d"}, {}, "c"),
        ({"x-client-request-id": "d"}, {}, "d"),
        ({"session-id": "a"}, {"session_id": "mine"}, "mine"),
        ({}, {}, ""),
    ]
    for headers, body, session_id in cases:
        assert (await chat(session, fleet, KEY | headers, **body))[0] == 200
        assert fleet.router.opened[-1].session_id == session_id, headers


async def test_unknown_fields_pass_are_stripped_or_refused(
    start_fleet: Any, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stripped = "unknown fields stripped"
    for policy, status, is_warned in [
        ("pass_through", 200, False),
        ("strip", 200, True),
        ("reject", 400, False),
    ]:
        caplog.clear()
        async with start_fleet(unknown_field_policy=policy) as fleet:
            assert (await chat(session, fleet, colour="red"))[0] == status, policy
        assert (stripped in caplog.messages) is is_warned, policy
    caplog.clear()
    async with start_fleet(unknown_field_policy="strip", warn_on_stripped_fields=False) as fleet:
        assert (await chat(session, fleet, colour="red"))[0] == 200
    assert stripped not in caplog.messages


async def test_strict_start_up_needs_the_router(start_fleet: Any, tmp_path: Any) -> None:
    async with start_fleet(strict_startup=True) as fleet:
        assert fleet.router.list_count >= 1
    settings = Settings(
        listen_port=0, api_key=HOUSE_KEY, router_address=f"unix:{tmp_path}/nobody",
        strict_startup=True, probe_timeout_s=0.2, fleet={"data_dir": tmp_path},
    )  # fmt: skip
    with pytest.raises(StartupProbeFailed, match=r"did not answer within 0\.2 s"):
        async with running(settings):
            pass


async def test_a_router_that_is_away_at_start_is_only_told(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, session: Any
) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(
        listen_port=0, api_key=HOUSE_KEY, router_address=f"unix:{tmp_path}/nobody",
        probe_timeout_s=0.05, fleet={"data_dir": tmp_path},
    )  # fmt: skip
    async with running(settings) as (address, _):
        while "router did not answer at start" not in caplog.messages:
            assert (await ask(session, "GET", f"http://{address}/health"))[0] == 200


async def test_a_stream_that_fails_has_its_outcome_in_the_history(fleet: Any, session: Any) -> None:
    fleet.stage.refusal = Unavailable("gone")
    status, _, headers = await chat(session, fleet)
    assert status == 503
    url = f"{fleet.url}/relay/requests/{headers['x-request-id']}"
    _, entry, _ = await ask(session, "GET", url, headers=KEY)
    assert (entry["status"], entry["outcome"]) == (503, "failed")


async def test_anthropics_client_reads_the_error_of_a_missing_scope(
    fleet: Any, session: Any
) -> None:
    key = (await named_key(session, fleet, scopes=["models"]))["x-api-key"]
    async with anthropic.AsyncAnthropic(base_url=fleet.url, api_key=key) as client:
        with pytest.raises(anthropic.PermissionDeniedError, match="needs the scope chat"):
            await client.messages.create(
                model="auto", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )
