"""One seed from beginning to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from shoal_common import ids
from shoal_common.testing.virtual_time import PROCESS, Stalled, VirtualLoop, run_virtual
from shoal_engine import blocks
from tests.sim.checks import Breaches, PlanWatch, check_quiet, check_request, check_stopped
from tests.sim.clients import Clients
from tests.sim.faults import Faults
from tests.sim.fleet import Fleet, Process
from tests.sim.scenario import Kind, Request, Scenario, scenario_of

EPOCH_S = 1000.0
# A lease of 10 s and the looks at it have passed by then.
QUIET_S = 13.0
# From the last fault's end on, somebody's request goes on at least this often.
PATIENCE_S = 10.0
# Engines are started, heard of and trusted again by then.
RECOVERY_S = 5.0
AFTERWARDS = Request("after", 0.0, prompt=tuple(range(100, 120)), max_tokens=8, gateway=0)


@dataclass
class Report:
    """What became of one seed."""

    seed: int
    kind: str
    breaches: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    virtual_s: float = 0.0
    turn_count: int = 0

    def __str__(self) -> str:
        said = ", ".join(f"{number} {how}" for how, number in self.outcomes.items())
        return (
            f"seed {self.seed} ({self.kind}): {len(self.breaches)} breaches, "
            f"{self.virtual_s:.6f} s in {self.turn_count} turns; {said}"
        )


def play(seed: int, kind: Kind | None = None, *, is_traced: bool = False) -> Report:
    """Run a seed. The same seed gives the same history, whatever ran before."""
    scenario = scenario_of(seed, kind)
    breaches = Breaches()
    report = Report(seed, scenario.kind.value)
    with _seeded(scenario), _logs(breaches, is_traced):
        # Nothing is cleaned up at a moment that another seed would have decided.
        gc.disable()
        gc.freeze()
        try:
            run_virtual(lambda: _History(scenario, breaches, report, is_traced).play())
        except Stalled as err:
            breaches.add(str(err))
        finally:
            gc.enable()
    for error in breaches.errors if is_traced else ():
        traceback.print_exception(error, file=sys.stdout)
    report.breaches = breaches.found
    return report


class _History:
    def __init__(
        self, scenario: Scenario, breaches: Breaches, report: Report, is_traced: bool
    ) -> None:
        loop = asyncio.get_event_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._scenario = scenario
        self._breaches = breaches
        self._report = report
        self._is_traced = is_traced
        watch = PlanWatch(breaches)
        self._fleet = watch.fleet = Fleet(scenario, loop, watch.watched)
        self._clients = Clients(self._fleet, self._tell)

    async def play(self) -> None:
        self._loop.set_exception_handler(self._breaches.loop_said)
        self._tell(f"{self._scenario}")
        self._fleet.start()
        self._clients.start()
        Faults(self._fleet, self._tell).start()
        await self._until_over()
        await self._ask_afterwards()
        await self._fleet.clock.sleep(QUIET_S)
        check_quiet(self._fleet, self._breaches)
        for seen in self._clients.seen:
            check_request(seen, self._scenario, self._breaches)
        await self._stop()
        self._report_outcomes()
        gc.collect()

    async def _until_over(self) -> None:
        """Until every request is over and every fault healed, or nobody goes on any more."""
        begins_s = EPOCH_S + max(request.at_s for request in self._scenario.requests)
        calm_s = max(begins_s, EPOCH_S + self._scenario.heals_at_s)
        while True:
            await self._fleet.clock.sleep(0.5)
            now_s = self._loop.time()
            waiting = [seen for seen in self._clients.seen if not seen.is_over]
            if not waiting and now_s > calm_s:
                return
            last_s = max((seen.heard_at_s for seen in self._clients.seen), default=0.0)
            if now_s > max(calm_s, last_s) + PATIENCE_S:
                for seen in waiting:
                    where = "" if seen.admitted_count else ", never admitted"
                    self._breaches.add(
                        f"{seen.request.name}: still waits {PATIENCE_S:g} s after the last fault's "
                        f"end, {len(seen.ids)} tokens{where}"
                    )
                return

    async def _ask_afterwards(self) -> None:
        """A fleet in which nothing is wrong any more serves whoever asks, through any gateway."""
        await self._fleet.clock.sleep(RECOVERY_S)
        asked = [
            self._clients.ask(replace(AFTERWARDS, name=f"after{number}", gateway=number))
            for number in range(self._scenario.gateway_count)
        ]
        await self._fleet.clock.sleep(PATIENCE_S)
        for seen in asked:
            if seen.finished is None:
                how = seen.ends[0] if seen.ends else "waits"
                self._breaches.add(f"{seen.request.name}: {how}, when nothing is wrong any more")

    async def _stop(self) -> None:
        """End everybody in order; what they leave behind is a leak."""
        living: list[Process] = list(self._fleet.processes.values())
        for process in living:
            try:
                async with asyncio.timeout(60):
                    await process.stop()
            except TimeoutError:
                self._breaches.add(f"{process.name}: it does not stop")
        await self._fleet.clock.sleep(1)
        check_stopped(self._fleet, [process.name for process in living], self._breaches)

    def _report_outcomes(self) -> None:
        outcomes: dict[str, int] = {}
        for seen in self._clients.seen:
            how = "lost with its gateway"
            if seen.ends:
                how = seen.ends[0].partition(":")[0]
            outcomes[how] = outcomes.get(how, 0) + 1
        self._report.outcomes = outcomes
        self._report.virtual_s = self._loop.time() - EPOCH_S
        self._report.turn_count = self._loop.turn_count

    def _tell(self, event: str) -> None:
        if self._is_traced:
            _print(self._loop.time(), PROCESS.get(), event)


class _Trace(logging.Handler):
    """Prints every log record with its moment and its process."""

    def emit(self, record: logging.LogRecord) -> None:
        usual = vars(logging.makeLogRecord({}))
        fields = {k: v for k, v in vars(record).items() if k not in usual and k != "message"}
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        _print(_now_s(), PROCESS.get(), f"[{record.name}] {record.getMessage()} {said}")


def _now_s() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return EPOCH_S


def _print(now_s: float, process: str, event: str) -> None:
    sys.stdout.write(f"{now_s - EPOCH_S:10.4f} {process:18s} {event}\n")


@contextmanager
def _logs(breaches: Breaches, is_traced: bool) -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    root.handlers = [breaches, *([_Trace()] if is_traced else [])]
    root.setLevel(logging.INFO if is_traced else logging.ERROR)
    try:
        with warnings.catch_warnings():
            # What a killed process was about to do is never awaited.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


class _SeededSecrets:
    """Random ids that a seed decides."""

    def __init__(self, dice: random.Random) -> None:
        self.randbits = dice.getrandbits
        self.token_hex = lambda count: dice.randbytes(count).hex()


@contextmanager
def _seeded(scenario: Scenario) -> Iterator[None]:
    """Everything random comes from the seed, and tiles of KV are as long as it says."""
    seed = scenario.random.random()
    state = random.getstate()
    random.seed(seed)
    secrets = _SeededSecrets(random.Random(seed))
    try:
        with (
            patch.object(ids, "secrets", secrets),
            patch.object(blocks, "TILE_TOKENS", scenario.tile_tokens),
        ):
            yield
    finally:
        random.setstate(state)
