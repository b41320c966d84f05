"""The heavyweight's stream beside a draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from shoal_common.clock import SystemClock
from shoal_common.errors import InvalidRequest, ShoalError, Unavailable, UnknownModel
from shoal_gateway.answers import Answer
from shoal_gateway.cascade.errors import HeavyweightMissing, HeavyweightSilent
from shoal_gateway.cascade.heavy import HeavyRun, Standby
from shoal_gateway.task import Admitted, Event, Finished, TextDelta, Usage


@dataclass
class Said:
    """An answer of many pieces; `pause` before the last one, `error` in its place."""

    piece_count: int = 3
    pause: asyncio.Event | None = None
    error: Exception | None = None
    read_count: int = 0
    is_closed: bool = False
    # All but the last event was asked for.
    is_said: asyncio.Event = field(default_factory=asyncio.Event)
    model: str = "heavyweight"
    fingerprint: str = ""

    def again(self, request_id: str, seed: int | None) -> Said:
        return Said(self.piece_count)

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            yield Admitted(5)
            for index in range(self.piece_count):
                self.read_count += 1
                yield TextDelta(str(index))
            self.is_said.set()
            if self.pause is not None:
                await self.pause.wait()
            if self.error is not None:
                raise self.error
            yield Finished("stop", Usage(5, self.piece_count + 1))
        finally:
            self.is_closed = True


def begun(said: Said, timeout_s: float = 60.0) -> HeavyRun:
    async def opened() -> Answer:
        return said

    run = HeavyRun(Standby("heavyweight", opened, said), ())
    run.start(SystemClock(), timeout_s)
    return run


async def test_what_was_said_before_it_was_wanted_is_not_lost() -> None:
    said = Said(piece_count=4)
    run = begun(said)
    await said.is_said.wait()
    events = [event async for event in run.events()]
    assert [type(event) for event in events] == [Admitted, *[TextDelta] * 4, Finished]
    assert run.spent == Usage(5, 5)


async def test_it_reads_ahead_only_so_far() -> None:
    said = Said(piece_count=5000)
    run = begun(said)
    for _ in range(3000):
        await asyncio.sleep(0)
    assert said.read_count < 300
    await run.cancel()
    assert said.is_closed


async def test_cancelled_it_is_closed_and_what_it_computed_is_known() -> None:
    said = Said(pause=asyncio.Event())
    run = begun(said)
    await said.is_said.wait()
    await run.cancel()
    await run.cancel()
    assert said.is_closed
    assert run.spent == Usage(5, 3)


@pytest.mark.parametrize("error", [Unavailable("gone"), ValueError("a fault")])
async def test_what_goes_wrong_is_raised_where_it_went_wrong(error: Exception) -> None:
    run = begun(Said(error=error))
    seen: list[Event] = []

    async def read() -> None:
        async for event in run.events():
            seen.append(event)

    with pytest.raises(type(error)):
        await read()
    assert len(seen) == 4


async def test_silence_is_an_error_that_names_its_length() -> None:
    said = Said(pause=asyncio.Event())
    run = begun(said, timeout_s=0.02)
    with pytest.raises(HeavyweightSilent, match=r"'heavyweight' sent nothing for 0\.02 s"):
        _ = [event async for event in run.events()]
    assert said.is_closed


async def test_one_that_is_missing_is_asked_for_again_when_it_is_needed() -> None:
    outcomes: list[Answer | ShoalError] = [Unavailable("starting"), Said()]

    async def opened() -> Answer:
        outcome = outcomes.pop(0)
        if isinstance(outcome, ShoalError):
            raise outcome
        return outcome

    standby = await Standby.opened("heavyweight", opened)
    assert standby.answer is None
    assert len([event async for event in standby.events()]) == 5


async def test_a_model_that_nobody_serves_is_the_operators_not_the_clients() -> None:
    async def opened() -> Answer:
        raise UnknownModel("heavyweight")

    standby = await Standby.opened("heavyweight", opened)
    with pytest.raises(HeavyweightMissing, match="heavyweight_model"):
        _ = [event async for event in standby.events()]


async def test_what_the_caller_must_change_is_said_at_once() -> None:
    async def opened() -> Answer:
        raise InvalidRequest("too long")

    with pytest.raises(InvalidRequest, match="too long"):
        await Standby.opened("heavyweight", opened)
