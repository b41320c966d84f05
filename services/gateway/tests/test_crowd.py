"""Two hundred streams at once, half of them left alone midway: nothing stays behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import psutil
import pytest

KEY = "k" * 64
STREAM_COUNT = 200
TIMEOUT_S = 40.0


def tasks() -> set[asyncio.Task[Any]]:
    """What runs besides this test."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def until_settled(before: int) -> None:
    """Wait until no more tasks run than before."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(tasks()) > before:
            # Whoever is still to end gets its turn.
            await asyncio.wait(tasks(), timeout=0.05, return_when=asyncio.FIRST_COMPLETED)


def peers_of(fleet: Any) -> int:
    """Connections that clients hold to the gateway."""
    port = int(fleet.url.rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp")
    return sum(c.laddr.port == port and c.status == "ESTABLISHED" for c in connections)


async def stream(session: aiohttp.ClientSession, url: str, leaves: bool, choice_count: int) -> str:
    """Reads one answer to its end, or leaves after the first delta."""
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "n": choice_count,
    }
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        async for line in response.content:
            if leaves and line.startswith(b"data: "):
                response.close()
                return "left"
            if line == b"data: [DONE]\n":
                return "done"
    return "cut"


@pytest.mark.parametrize(("stream_count", "choice_count"), [(STREAM_COUNT, 1), (20, 3)])
async def test_half_of_a_crowd_leaves_and_nothing_leaks(
    start_fleet: Any, stream_count: int, choice_count: int
) -> None:
    async with start_fleet() as fleet:
        fleet.says("one two three four five six seven")
        async with aiohttp.ClientSession(
            headers={"x-api-key": KEY}, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            # The first request opens what stays open: channels, the model's text side.
            assert await stream(session, fleet.url, False, choice_count) == "done"
        await until_no_peers(fleet)
        before = len(tasks())
        async with aiohttp.ClientSession(
            headers={"x-api-key": KEY}, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            outcomes = Counter(
                await asyncio.gather(
                    *(
                        stream(session, fleet.url, index % 2 == 0, choice_count)
                        for index in range(stream_count)
                    )
                )
            )
        assert outcomes == {"left": stream_count // 2, "done": stream_count // 2}
        await until_no_peers(fleet)
        await until_settled(before)
        plan_count = (stream_count + 1) * choice_count
        await until_free(fleet, plan_count)
        assert len(fleet.router.opened) == fleet.router.closed_count == plan_count
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{fleet.url}/metrics") as response,
        ):
            # The question itself is in flight.
            assert "shoal_gateway_in_flight 1.0" in await response.text()


async def until_no_peers(fleet: Any) -> None:
    """Wait until the gateway has closed its side of every client's connection."""
    async with asyncio.timeout(TIMEOUT_S):
        while peers_of(fleet):
            await asyncio.wait(tasks(), timeout=0.05, return_when=asyncio.FIRST_COMPLETED)


async def until_free(fleet: Any, plan_count: int) -> None:
    """Wait until that many plans are closed and no stage generates any more."""
    async with asyncio.timeout(TIMEOUT_S):
        while fleet.router.closed_count < plan_count:
            fleet.router.is_closed.clear()
            await fleet.router.is_closed.wait()
        while fleet.stage.running_count:
            fleet.stage.is_cancelled.clear()
            await fleet.stage.is_cancelled.wait()


async def test_one_failing_choice_ends_all_and_frees_them(fleet: Any) -> None:
    fleet.says("one two three")
    fleet.stage.fail_at = [1]
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 3}
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 503
    await until_free(fleet, len(fleet.router.opened))


async def test_leaving_frees_every_choice(fleet: Any) -> None:
    fleet.says("one two three")
    fleet.stage.hold = 1
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 3, "stream": True}
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:
        async with session.post(f"{fleet.url}/v1/chat/completions", json=body) as response:
            assert (await response.content.readline()).startswith(b"data: ")
            response.close()
        await until_free(fleet, 3)
    prompts = {tuple(request.token_ids.ids) for request in fleet.stage.requests}
    assert len(prompts) == 1, "all choices go on from one prompt"
