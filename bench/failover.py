"""How long a client waits when a worker is lost in the middle of its reply, by kind of loss.

    python -m bench.failover [--quick]

Starts two pipelines of two stages with the demo model, streams one reply after the other, and kills
or stops an engine that computes for it when a random number of its chunks has come. The figure is
the longest time between two chunks: detection, another plan, and the replay of prompt and reply. A
reply that is not the undisturbed one, to the letter, fails the measurement.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from openai import AsyncOpenAI

from bench.conditions import DEMO, Conditions
from bench.figures import Figure, Report, Target, at_most
from bench.running import run_program
from shoal.worker.v1 import pipeline_pb2
from tests.e2e.driving import Driver
from tests.e2e.fleet import Fleet, fleet_up
from tests.e2e.replies import Said, Stream

_SHARDS = "0-2,3-5,0-2,3-5"
_WORKER_COUNT = 4
_PROMPT = "Tell me a story."
_TOKEN_COUNT = 160
_FIELDS = {"temperature": 0, "logit_bias": {"0": -100, "2": -100}, "max_tokens": _TOKEN_COUNT}
_ROUNDS, _QUICK_ROUNDS = 15, 2
_WHOLE_TIMEOUT_S = 120.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Loss:
    """What happens to which stage; how long a client may wait for it at most."""

    name: str
    stage: int
    is_killed: bool
    target: Target


# Dead connections are seen at once; a receipt may take 1 s, looked at every quarter of a second
# after half a second without a word; a head's sign of life may take 2 s, looked at every half.
_LOSSES = (
    Loss("last stage killed", 1, is_killed=True, target=at_most(0.5)),
    Loss("first stage killed", 0, is_killed=True, target=at_most(0.5)),
    Loss("last stage stopped", 1, is_killed=False, target=at_most(2.0)),
    Loss("first stage stopped", 0, is_killed=False, target=at_most(3.0)),
)


async def measure(report: Report, conditions: Conditions) -> None:
    """All kinds of losses on one fleet."""
    rounds = _QUICK_ROUNDS if conditions.is_quick else _ROUNDS
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet_up(Path(folder), models=[DEMO], shards=_SHARDS, timeout_s=300) as fleet,
    ):
        driver = Driver(fleet.address("router"), fleet.token)
        async with AsyncOpenAI(
            base_url=f"{fleet.url}/v1", api_key=fleet.key, max_retries=0
        ) as client:
            try:
                await _measure(report, fleet, client, driver, rounds)
            finally:
                await driver.close()


async def _measure(
    report: Report, fleet: Fleet, client: AsyncOpenAI, driver: Driver, rounds: int
) -> None:
    await _whole(driver)
    undisturbed = [await _stream(client).to_end() for _ in range(rounds)]
    _note(report, "nothing lost", [said.gap_s for said in undisturbed], None)
    source = random.Random(0)
    for loss in _LOSSES:
        gaps_s = []
        for _ in range(rounds):
            moment = source.randint(1, _TOKEN_COUNT - 1)
            gaps_s.append(await _gap(fleet, client, loss, moment, undisturbed[0]))
            await _whole(driver)
        _note(report, loss.name, gaps_s, loss.target)
    report.notes.append(
        f"{rounds} replies of {_TOKEN_COUNT} tokens for each kind, all of them the undisturbed one"
    )


def _stream(client: AsyncOpenAI) -> Stream:
    return Stream(client, DEMO, _PROMPT, dict(_FIELDS))


async def _gap(
    fleet: Fleet, client: AsyncOpenAI, loss: Loss, moment: int, undisturbed: Said
) -> float:
    """The longest wait of a reply that loses a stage behind `moment` chunks."""
    stream = _stream(client)
    struck = None
    try:
        async with aclosing(stream.chunks()) as chunks:
            async for count in chunks:
                if count != moment:
                    continue
                struck = fleet.engine_of(stream.route[loss.stage])
                if loss.is_killed:
                    struck.kill()
                else:
                    struck.suspend()
    finally:
        if struck is not None and not loss.is_killed:
            struck.resume()
    stream.said.assert_same(undisturbed)
    return stream.said.gap_s


def _note(report: Report, name: str, gaps_s: Sequence[float], target: Target | None) -> None:
    report.add(Figure(name, median(gaps_s), "s", target, min(gaps_s), max(gaps_s)))
    report.details[name] = [round(gap_s, 3) for gap_s in sorted(gaps_s)]


async def _whole(driver: Driver) -> None:
    """Wait until all engines are ready again and hold nothing."""
    ready = [pipeline_pb2.ENGINE_STATE_READY] * _WORKER_COUNT
    async with asyncio.timeout(_WHOLE_TIMEOUT_S):
        while True:
            workers = (await driver.fleet()).workers
            engines = [e for w in workers if w.is_alive for e in w.beat.engines]
            if [engine.state for engine in engines] == ready:
                break
            await asyncio.sleep(_POLL_S)
    await driver.until_free(_WHOLE_TIMEOUT_S)


if __name__ == "__main__":
    run_program("failover", "Waits of clients whose workers are lost.", {"longest wait": measure})
