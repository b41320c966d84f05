"""What the gateway remembers of the entropy-drafter, and where texts may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shoal_common.driving import PeerUnreachable, Privacy
from shoal_common.errors import InvalidRequest, Unavailable
from shoal_common.rpc import RpcChannel
from shoal_common.testing.clock import FakeClock
from shoal_gateway.drafter import GrpcDrafter
from shoal_gateway.drafter_testing import RunningDrafter, fake_drafter
from shoal_gateway.embedder import FRESH_S, OwnEmbedder


@pytest.fixture
async def drafter() -> AsyncIterator[RunningDrafter]:
    async with fake_drafter() as drafter:
        yield drafter


@pytest.fixture
async def asked(drafter: RunningDrafter) -> AsyncIterator[GrpcDrafter]:
    async with RpcChannel(drafter.address) as channel:
        yield GrpcDrafter(channel, 5.0)


async def test_a_drafter_that_is_away_keeps_its_model(
    drafter: RunningDrafter, asked: GrpcDrafter
) -> None:
    clock = FakeClock()
    embedder = OwnEmbedder(asked, drafter.address, clock)
    assert await embedder.model() == "all-MiniLM-L6-v2"
    drafter.service.error = Unavailable("away")
    assert (await embedder.described()).embedding_model == "all-MiniLM-L6-v2"
    await clock.advance(FRESH_S)
    with pytest.raises(PeerUnreachable):
        await embedder.described()
    assert await embedder.model() == "all-MiniLM-L6-v2"
    assert drafter.service.describe_count == 2
    drafter.service.error = None
    await clock.advance(FRESH_S)
    assert (await embedder.described()).embedding_model == "all-MiniLM-L6-v2"


async def test_many_who_ask_at_once_are_one_question(
    drafter: RunningDrafter, asked: GrpcDrafter
) -> None:
    embedder = OwnEmbedder(asked, drafter.address, FakeClock())
    await asyncio.gather(*(embedder.described() for _ in range(10)))
    assert drafter.service.describe_count == 1


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:7005", True),
        ("localhost:7005", True),
        ("[::1]:7005", True),
        ("unix:/run/drafter.sock", True),
        ("grpc:127.0.0.1:7005", True),
        ("10.0.0.7:7005", False),
        ("entropy-drafter:7005", False),
    ],
)
async def test_only_a_drafter_of_this_machine_reads_what_is_local(
    asked: GrpcDrafter, drafter: RunningDrafter, address: str, is_here: bool
) -> None:
    embedder = OwnEmbedder(asked, address, FakeClock())
    described = drafter.service.described
    embedder.require_private(described, Privacy("lan"))
    for privacy in (Privacy("local"), Privacy("public", is_boomerang=True)):
        if is_here:
            embedder.require_private(described, privacy)
            continue
        with pytest.raises(InvalidRequest, match="another machine"):
            embedder.require_private(described, privacy)
