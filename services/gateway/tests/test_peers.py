"""Peers that are not there, or do not take us in."""

from __future__ import annotations

from typing import Any

import aiohttp

from shoal_common.errors import Unauthenticated

KEY = "k" * 64
BODY = {"messages": [{"role": "user", "content": "hi"}]}


async def chat(url: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{url}/v1/chat/completions", json=BODY) as response,
    ):
        return response.status, (await response.json())["error"]


async def test_a_router_that_is_gone_is_503_without_its_address(fleet: Any) -> None:
    await fleet.router_server.stop()
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "peer_unreachable")
    assert "127.0.0.1" not in error["message"]


async def test_a_model_whose_engines_are_starting_is_503(fleet: Any) -> None:
    fleet.router.context_length = 0
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "model_not_ready")
    assert "try again in a few seconds" in error["message"]


async def test_a_shard_store_that_is_gone_is_503(fleet: Any) -> None:
    await fleet.store_server.stop()
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "peer_unreachable")
    assert "shard store" in error["message"]


async def test_a_worker_that_is_gone_before_the_first_token_is_503(fleet: Any) -> None:
    await fleet.stage_server.stop()
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "peer_unreachable")
    assert fleet.router.lost[0].node_id == "node-a"
    await fleet.router.is_closed.wait()


async def test_a_refused_fleet_token_is_not_the_clients_fault(fleet: Any) -> None:
    fleet.router.error = Unauthenticated("the fleet token is wrong")
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "peer_refused")


async def test_files_that_differ_from_the_manifest_are_not_used(fleet: Any) -> None:
    fleet.store.corrupt = True
    status, error = await chat(fleet.url)
    assert (status, error["code"]) == (503, "model_files_broken")
    fleet.store.corrupt = False
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1/chat/completions", json=BODY) as response,
    ):
        assert response.status == 200, "a failed read is not remembered"
