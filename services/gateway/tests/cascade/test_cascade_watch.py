"""A drafter that is away delays few requests, and is complained of once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from shoal.drafter.v1 import drafter_pb2
from shoal_common.driving import PeerUnreachable
from shoal_common.testing.clock import FakeClock
from shoal_gateway.cascade.watch import FRESH_S, PAUSE_S, DrafterWatch

from .conftest import described


class Described:
    """Answers `said`, or that nobody is there; `gate` holds the answer back."""

    def __init__(self) -> None:
        self.said: drafter_pb2.DescribeResponse | None = described()
        self.gate: asyncio.Event | None = None
        self.count = 0

    async def describe(self) -> drafter_pb2.DescribeResponse:
        self.count += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.said is None:
            raise PeerUnreachable("the entropy-drafter")
        return self.said


class Watched:
    def __init__(self) -> None:
        self.drafter, self.clock = Described(), FakeClock()
        self.watch = DrafterWatch(cast(Any, self.drafter), self.clock, 60.0)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    yield watched
    await watched.watch.close()


async def test_what_was_said_is_believed_for_some_seconds(watched: Watched) -> None:
    for _ in range(3):
        assert await watched.watch.described() == described()
    assert watched.drafter.count == 1


async def test_what_grew_old_is_renewed_beside_the_request(watched: Watched) -> None:
    await watched.watch.described()
    watched.drafter.said, watched.drafter.gate = described(model="other"), asyncio.Event()
    watched.clock.jump(FRESH_S)
    first = await watched.watch.described()
    assert first is not None
    assert first.model == "drafter"
    watched.drafter.gate.set()
    assert watched.watch._asking is not None
    await watched.watch._asking
    second = await watched.watch.described()
    assert second is not None
    assert second.model == "other"


async def test_a_drafter_that_is_away_is_asked_once_a_second(watched: Watched) -> None:
    watched.drafter.said = None
    for _ in range(3):
        assert await watched.watch.described() is None
    assert watched.drafter.count == 1
    watched.clock.jump(PAUSE_S)
    watched.drafter.said = described()
    assert await watched.watch.described() == described()


async def test_a_silent_drafter_holds_up_one_request_and_not_for_long(watched: Watched) -> None:
    watched.drafter.gate = asyncio.Event()
    assert await watched.watch.described(wait_s=0.01) is None
    assert await watched.watch.described(wait_s=1000.0) is None
    watched.drafter.gate.set()
    assert watched.watch._asking is not None
    await watched.watch._asking
    assert await watched.watch.described() == described()


async def test_one_warning_for_an_outage(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shoal_gateway.cascade.watch")
    await watched.watch.described()
    for _ in range(4):
        watched.watch.lost(PeerUnreachable("the entropy-drafter"))
        watched.drafter.said = None
        watched.clock.jump(PAUSE_S)
        assert await watched.watch.described() is None
    watched.drafter.said = described()
    watched.clock.jump(PAUSE_S)
    await watched.watch.described()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_timeout_that_cannot_work_is_an_error_once_for_each_drafter(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.drafter.said = described(timeout_ms=60_000)
    for incarnation in ("i1", "i1", "i2"):
        watched.drafter.said.incarnation = incarnation
        watched.watch.lost(PeerUnreachable("the entropy-drafter"))
        watched.clock.jump(PAUSE_S)
        await watched.watch.described()
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
    assert vars(errors[0])["drafter_timeout_s"] == 60.0
