"""Each kind of bad input: the right status, OpenAI's error shape, the field by name."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

KEY = "k" * 64
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        yield session


async def refused(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    body = await response.json()
    assert response.status == status, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


async def test_a_wrong_field_is_named(fleet: Any, session: aiohttp.ClientSession) -> None:
    body = {"messages": HELLO, "temperature": "hot"}
    async with session.post(fleet.url + CHAT, json=body) as response:
        error = await refused(response, 400)
    assert error["param"] == "temperature"
    assert error["type"] == "invalid_request_error"
    assert fleet.router.opened == []


MALFORMED_BODIES = [
    b"",
    b"{",
    b"[1]",
    b'"text"',
    b"\xff\xfe{}",
    b'{"messages": NaN}',
    b"[" * 100_000,
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
]


async def test_a_body_that_is_no_json_object(fleet: Any, session: aiohttp.ClientSession) -> None:
    for body in MALFORMED_BODIES:
        async with session.post(fleet.url + CHAT, data=body) as response:
            assert (await refused(response, 400))["code"] == "malformed_body", body[:20]


async def test_a_body_over_32_mib(fleet: Any, session: aiohttp.ClientSession) -> None:
    body = io.BytesIO(b" " * (32 * 1024 * 1024 + 1))
    async with session.post(fleet.url + CHAT, data=body) as response:
        await refused(response, 413)


async def test_a_body_over_32_mib_without_a_length(
    fleet: Any, session: aiohttp.ClientSession
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield b" " * 1024 * 1024

    async with session.post(fleet.url + CHAT, data=parts()) as response:
        await refused(response, 413)


async def test_an_unknown_model_says_which_are_known(
    fleet: Any, session: aiohttp.ClientSession
) -> None:
    body = {"model": "gpt-99", "messages": HELLO}
    async with session.post(fleet.url + CHAT, json=body) as response:
        error = await refused(response, 404)
    assert "heavyweight" in error["message"]
    assert error["param"] == "model"


async def test_an_over_long_prompt_says_tokens_and_limit(
    fleet: Any, session: aiohttp.ClientSession
) -> None:
    body = {"messages": [{"role": "user", "content": "fish " * 2000}]}
    async with session.post(fleet.url + CHAT, json=body) as response:
        error = await refused(response, 400)
    assert "512 tokens" in error["message"]
    assert "the prompt has 6009 tokens" in error["message"]


async def test_an_explicit_budget_must_fit_the_context(
    fleet: Any, session: aiohttp.ClientSession
) -> None:
    body = {"messages": HELLO, "max_tokens": 512}
    async with session.post(fleet.url + CHAT, json=body) as response:
        assert (await refused(response, 400))["code"] == "prompt_too_long"


WRONG_KEYS: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": f"Basic {KEY}"},
    {"x-api-key": "wrong"},
    {"x-api-key": "ключ"},
]


async def test_no_key_or_a_wrong_one(fleet: Any) -> None:
    for headers in WRONG_KEYS:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(fleet.url + CHAT, json={"messages": HELLO}) as response,
        ):
            error = await refused(response, 401)
        assert error["type"] == "authentication_error"
        assert KEY not in error["message"]


async def test_unknown_routes_and_methods(fleet: Any, session: aiohttp.ClientSession) -> None:
    async with session.get(fleet.url + "/v1/nothing") as response:
        await refused(response, 404)
    async with session.get(fleet.url + CHAT) as response:
        await refused(response, 405)
        assert response.headers["Allow"] == "POST"


async def test_unknown_fields_pass_unless_strict(
    start_fleet: Any, session: aiohttp.ClientSession
) -> None:
    body = {"messages": HELLO, "my_extension": 1}
    async with start_fleet() as fleet, session.post(fleet.url + CHAT, json=body) as response:
        assert response.status == 200
    async with (
        start_fleet(strict_compat=True) as fleet,
        session.post(fleet.url + CHAT, json=body) as response,
    ):
        assert (await refused(response, 400))["param"] == "my_extension"


async def test_a_template_that_loops_for_ever(
    start_fleet: Any, session: aiohttp.ClientSession
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    async with start_fleet(template=endless, template_timeout_s=0.3) as fleet:
        async with session.post(fleet.url + CHAT, json={"messages": HELLO}) as response:
            error = await refused(response, 400)
        assert error["code"] == "template_failed"
        assert fleet.router.opened == []


async def test_a_template_that_refuses_the_messages(
    start_fleet: Any, session: aiohttp.ClientSession
) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    async with (
        start_fleet(template=template) as fleet,
        session.post(fleet.url + CHAT, json={"messages": HELLO}) as response,
    ):
        assert "roles must alternate" in (await refused(response, 400))["message"]
