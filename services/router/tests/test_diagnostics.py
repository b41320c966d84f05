"""The lines that the troubleshooting page tells to look for, with their fields."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from shoal_router.testing import beat, status

from .fleet import fleet_of


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == event]


async def test_a_plan_leaves_a_line_with_its_candidates(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "shoal_router")
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"), beat("b"))
        for _ in range(2):
            await (await fleet.open()).plan()
        assert await (await fleet.open(tenant="t")).position() == 1
    given = lines(caplog, "plan given")[:2]  # Closing the fleet serves the third.
    assert [line["candidates"] for line in given] == [2, 1]
    assert {line["stages"][0] for line in given} == {"a@0:6", "b@0:6"}
    assert {(line["diag"], line["request_id"], line["attempt"]) for line in given} == {
        ("plan", "req", 1)
    }
    (queued,) = lines(caplog, "request queued")
    assert (queued["diag"], queued["position"], queued["tier"]) == ("queue", 1, "gold")


async def test_a_refusal_leaves_a_line_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shoal_router")
    async with fleet_of() as fleet:
        await fleet.hear(beat("a", status("a", "0:3")))
        await (await fleet.open()).error()
    (refused,) = lines(caplog, "plan refused")
    assert (refused["diag"], refused["reason"]) == ("plan", "PLAN_UNAVAILABLE")
    assert "layers 3:6" in refused["detail"]


async def test_without_debugging_requests_that_are_served_leave_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "shoal_router")
    async with fleet_of() as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
    assert not lines(caplog, "plan given")
