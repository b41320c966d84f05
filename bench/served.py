"""Fleets with a driver each: what measurements of the engines talk to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psutil

from bench.fleets import BenchFleet, FleetPlan, fleets
from bench.streams import Route, Timed, TimedDriver, vocab_size


class Served:
    """One fleet's model, asked for tokens without the gateway. Connections stay open."""

    def __init__(self, fleet: BenchFleet) -> None:
        self.fleet = fleet
        self.driver = TimedDriver(fleet.router_address, fleet.token)
        self.vocab_size = vocab_size(fleet.plan.model)

    def processes(self) -> list[psutil.Process]:
        return self.fleet.processes()

    def tokens(
        self, ids: Sequence[int], count: int, route: Route | None = None
    ) -> AsyncGenerator[Timed, None]:
        """See `TimedDriver.tokens`."""
        return self.driver.tokens(self.fleet.model, ids, count, route)

    async def timed(self, ids: Sequence[int], count: int, route: Route | None = None) -> Timed:
        """See `TimedDriver.timed`."""
        return await self.driver.timed(self.fleet.model, ids, count, route)


@asynccontextmanager
async def served(plans: Mapping[str, FleetPlan]) -> AsyncIterator[dict[str, Served]]:
    """Start the fleets and a driver for each. Raises Skipped, FleetFailed."""
    async with AsyncExitStack() as stack:
        up = stack.enter_context(fleets(plans))
        found = {name: Served(fleet) for name, fleet in up.items()}
        for entry in found.values():
            stack.push_async_callback(entry.driver.close)
        yield found
