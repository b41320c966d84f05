"""What a cascade of the demo models costs and answers, from choosing its threshold to its streams.

    python -m bench.cascade [--quick]

`calibration` chooses a threshold on one half of the benchmark and reports it on the other.
`answers` asks the cascade as it ships, not streamed and streamed; `hold` the same with streams that
commit to a draft early. `speculation` puts the heavyweight two seconds away and asks the same
prompts of two fleets in turns, one of which starts it beside a doubtful draft.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench.cascade_asking import CascadeClient, Said
from bench.conditions import Conditions
from bench.figures import Figure, Report, at_least, at_most
from bench.fleets import ROOT
from bench.running import run_program
from bench.slow_upstream import slow_upstream
from shoal_cli.bench import percentile
from shoal_cli.calibration_answers import AnswerBook, Asking, Collector
from shoal_cli.calibration_run import Options, run, shipped_prompts
from shoal_cli.calibration_target import Target, parameters_of
from shoal_cli.client import GatewayClient
from shoal_cli.terminal import counter
from shoal_entropy_drafter.calibration.cases import Answered, Parameters
from shoal_entropy_drafter.calibration.prompts import LabelledPrompt, read_prompts
from tests.e2e.fleet import Fleet, fleet_up

DRAFTER, HEAVYWEIGHT, CASCADE = "drafter", "heavyweight", "cascade"
_SLOW = "faraway"
_DELAY_S = 2.0
_QUICK_STEP = 8
_ESCALATED, _QUICK_ESCALATED = 60, 6
_HOLD_COUNTS = (4, 24)
_READY_TIMEOUT_S = 300.0
# Every prompt is asked several times, and a kept answer would cost nothing.
_WITHOUT_CACHE = {"SHOAL_ENTROPY_DRAFTER_CACHE_ENABLED": "false", "OMP_NUM_THREADS": "1"}


@dataclass
class CascadeBench:
    """Measurements that share the heavyweight's own answers, asked for once."""

    heavies: dict[str, Answered] = field(default_factory=dict)
    parameters: Parameters = field(
        default_factory=lambda: parameters_of(None, Target(DRAFTER, HEAVYWEIGHT))
    )

    async def calibration(self, report: Report, conditions: Conditions) -> None:
        """Choose on 518, report on 519."""
        name = "cascade-quick-curve.png" if conditions.is_quick else "cascade-curve.png"
        with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder), {}) as fleet:
            options = Options(
                out=Path(folder) / "out",
                prompts=(_part(Path(folder), 518, conditions),),
                test=_part(Path(folder), 519, conditions),
            )
            client = GatewayClient(fleet.url, fleet.key)
            done = await run(client, options, counter)
            if done.picture is not None:
                shutil.copy(done.picture, ROOT / "bench" / "results" / name)
        told = done.as_json()
        del told["files"]
        report.details.update(told)
        test, mine = done.calibration.test, done.calibration.calibrate
        assert test is not None
        span = test.intervals
        for figure, value, target, key in (
            ("AUROC of 'drafter is wrong'", test.auroc, at_least(0.95), "auroc"),
            ("APGR (random choice 0.5)", test.apgr or 0.0, at_least(0.6), "apgr"),
            (
                "accuracy to the heavyweight's",
                test.accuracy_share,
                at_least(0.99),
                "accuracy_share",
            ),
            ("cost to the heavyweight's", test.at_threshold.cost, at_most(0.55), "cost"),
        ):
            pair = span.get(key)
            low, high = (pair.low, pair.high) if pair else (None, None)
            report.add(Figure(figure, value, "x", target, low, high))
        for share, at in ((95, test.at_95), (99, test.at_99)):
            if at is not None:
                report.add(Figure(f"least cost at {share} % of its accuracy", at.cost, "x"))
        report.add(Figure("wall time to the heavyweight's, serial", test.at_threshold.wall_cost))
        report.notes.append(
            f"threshold {done.calibration.threshold:g} bits, chosen on {mine.case_count} prompts, "
            f"figures of {test.case_count} others; spread: 95 % of resampled prompts"
        )
        if (unseen := done.calibration.unseen) is not None:
            shared = test.case_count - unseen.case_count
            report.notes.append(
                f"without the {shared} prompts that both sets hold, easy ones mostly: accuracy "
                f"{unseen.accuracy_share:.3f}, cost {unseen.at_threshold.cost:.3f}"
            )
        report.notes.extend(done.notes)

    async def answers(self, report: Report, conditions: Conditions) -> None:
        """As it ships: not streamed, and streamed in mode continue."""
        with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder), {}) as fleet:
            prompts = read_prompts(_part(Path(folder), 519, conditions))
            await self._ask_heavyweight(fleet, prompts, Path(folder))
            for name, is_stream in (("not streamed", False), ("streamed, continue", True)):
                said = await _asked(fleet, prompts, is_stream)
                self._note(report, name, prompts, said, targets=True)
            report.details["metrics"] = await _metrics(fleet)

    async def hold(self, report: Report, conditions: Conditions) -> None:
        """Streams that let a draft stand once its first tokens passed."""
        for count in _HOLD_COUNTS:
            settings = {
                "SHOAL_GATEWAY_STREAM_MODE": "hold",
                "SHOAL_ENTROPY_DRAFTER_EARLY_EXIT_COUNT": str(count),
            }
            with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder), settings) as fleet:
                prompts = read_prompts(_part(Path(folder), 519, conditions))
                await self._ask_heavyweight(fleet, prompts, Path(folder))
                said = await _asked(fleet, prompts, is_stream=True)
                self._note(report, f"hold, first {count} tokens", prompts, said, targets=False)

    async def speculation(self, report: Report, conditions: Conditions) -> None:
        """Two fleets in turns over the prompts that both escalate."""
        wanted = _QUICK_ESCALATED if conditions.is_quick else _ESCALATED
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            every = read_prompts(shipped_prompts("benchmark-519.jsonl"))
            hard = [prompt for prompt in every if prompt.level == "hard"]
            serial, beside = [
                await stack.enter_async_context(_faraway(folder / name, is_on))
                for name, is_on in (("serial", "false"), ("beside", "true"))
            ]
            rounds: list[tuple[Said, Said, Said]] = []
            for prompt in hard:
                pair = [await each.cascade.ask(prompt, False) for each in (serial, beside)]
                if all(said.tokens.get(HEAVYWEIGHT) for said in pair):
                    alone = await serial.heavyweight.ask(prompt, False)
                    rounds.append((pair[0], pair[1], alone))
                if len(rounds) == wanted:
                    break
            metrics = await _metrics(beside.fleet)
        _note_speculation(report, rounds, metrics)

    async def _ask_heavyweight(
        self, fleet: Fleet, prompts: Sequence[LabelledPrompt], folder: Path
    ) -> None:
        """Its own answers, one at a time, unless they are known."""
        missing = [prompt for prompt in prompts if prompt.key not in self.heavies]
        if not missing:
            return
        asking = Asking(DRAFTER, HEAVYWEIGHT)
        with AnswerBook(folder / "heavies.jsonl") as book:
            async with GatewayClient(fleet.url, fleet.key) as client:
                collector = Collector(client, asking, book, roles=("heavyweight",))
                collected = await collector.collect(missing)
        assert not collected.failures, collected.failures[0]
        self.heavies |= collected.heavies

    def _note(
        self,
        report: Report,
        name: str,
        prompts: Sequence[LabelledPrompt],
        said: Sequence[Said],
        *,
        targets: bool,
    ) -> None:
        """Accuracy, cost and time to the heavyweight's own, on the same prompts."""
        heavies = [self.heavies[prompt.key] for prompt in prompts]
        asked = list(zip(prompts, said, heavies, strict=True))
        right = sum(prompt.is_right(one.text, one.calls) for prompt, one, _ in asked)
        heavy_right = sum(prompt.is_right(one.text, one.calls) for prompt, _, one in asked)
        sizes = {DRAFTER: self.parameters.drafter, HEAVYWEIGHT: self.parameters.heavyweight}
        spent = sum(sizes[model] * count for one in said for model, count in one.tokens.items())
        alone = sizes[HEAVYWEIGHT] * sum(one.completion_tokens for one in heavies)
        report.add(
            Figure(
                f"{name}: accuracy to the heavyweight's",
                right / max(1, heavy_right),
                "x",
                at_least(0.99) if targets else None,
            ),
            Figure(f"{name}: cost", spent / alone, "x", at_most(0.55) if targets else None),
            Figure(
                f"{name}: wall time",
                sum(one.wall_s for one in said) / sum(one.wall_s for one in heavies),
            ),
            Figure(
                f"{name}: first of an answer, median", 1e3 * median(s.first_s for s in said), "ms"
            ),
        )
        tokens: Counter[str] = Counter()
        for one in said:
            tokens.update(one.tokens)
        report.details[name] = {
            "prompts": len(prompts),
            "right": right,
            "heavyweight_right": heavy_right,
            "tokens": dict(tokens),
            "heavyweight_tokens_alone": sum(one.completion_tokens for one in heavies),
            "answered_by": dict(Counter(one.answered_by for one in said)),
        }
        report.notes.append(f"{name}: answered by {dict(Counter(s.answered_by for s in said))}")


@dataclass(frozen=True)
class Faraway:
    """A fleet whose heavyweight is seconds away; it can be asked behind a drafter and alone."""

    fleet: Fleet
    cascade: CascadeClient
    heavyweight: CascadeClient


@asynccontextmanager
async def _faraway(folder: Path, is_speculative: str) -> AsyncIterator[Faraway]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(slow_upstream(_SLOW, HEAVYWEIGHT, _DELAY_S))
        settings = {
            "SHOAL_GATEWAY_CLOUD_MODELS": json.dumps({_SLOW: {"base_url": upstream.url}}),
            "SHOAL_GATEWAY_HEAVYWEIGHT_MODEL": _SLOW,
            "SHOAL_ENTROPY_DRAFTER_SPECULATIVE_ENABLED": is_speculative,
        }
        folder.mkdir()
        # Its start waits in a thread of its own, so that the upstream can be asked meanwhile.
        starting = _fleet(folder, settings)
        fleet = await asyncio.to_thread(starting.__enter__)
        stack.push(lambda *error: starting.__exit__(*error))
        upstream.target_url, upstream.key = fleet.url, fleet.key
        cascade, alone = [
            await stack.enter_async_context(CascadeClient(fleet.url, fleet.key, model))
            for model in (CASCADE, _SLOW)
        ]
        yield Faraway(fleet, cascade, alone)


@contextmanager
def _fleet(folder: Path, settings: Mapping[str, str]) -> Iterator[Fleet]:
    with fleet_up(
        folder,
        models=[HEAVYWEIGHT, DRAFTER],
        drafter=DRAFTER,
        environment={**_WITHOUT_CACHE, **settings},
        timeout_s=_READY_TIMEOUT_S,
    ) as fleet:
        yield fleet


def _part(folder: Path, seed: int, conditions: Conditions) -> Path:
    """The benchmark of a seed; every eighth prompt of it when quick."""
    path = shipped_prompts(f"benchmark-{seed}.jsonl")
    if not conditions.is_quick:
        return path
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    part = folder / path.name
    part.write_text("".join(lines[::_QUICK_STEP]), encoding="utf-8")
    return part


async def _asked(fleet: Fleet, prompts: Sequence[LabelledPrompt], is_stream: bool) -> list[Said]:
    """The cascade's answers, one at a time."""
    async with CascadeClient(fleet.url, fleet.key, CASCADE) as client:
        with counter("answers", len(prompts)) as step:
            said = []
            for prompt in prompts:
                said.append(await client.ask(prompt, is_stream))
                step()
            return said


async def _metrics(fleet: Fleet) -> dict[str, float]:
    """What the gateway counted of its cascade, by names with labels; ratios of nothing left out."""
    headers = {"Authorization": f"Bearer {fleet.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{fleet.url}/metrics") as response,
    ):
        response.raise_for_status()
        text = await response.text()
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("shoal_gateway_cascade_")
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created")) and isfinite(sample.value)
    }


def _note_speculation(
    report: Report, rounds: Sequence[tuple[Said, Said, Said]], metrics: Mapping[str, float]
) -> None:
    """How much sooner escalated requests end when the heavyweight starts beside the draft.

    rounds: the same prompt serially, speculatively, and by the heavyweight alone.
    """
    late_s: dict[str, float] = {}
    for index, name in enumerate(("serial", "speculative", "heavyweight alone")):
        times_s = [said[index].wall_s for said in rounds]
        late_s[name] = percentile(times_s, 95) or 0.0
        report.add(Figure(f"{name}: escalated requests, p50", percentile(times_s, 50) or 0.0, "s"))
        report.add(Figure(f"{name}: escalated requests, p95", late_s[name], "s"))
        report.details[name] = [round(value, 3) for value in times_s]
    cut, bound = (1 - late_s[name] / late_s["serial"] for name in list(late_s)[1:])
    prefix = "shoal_gateway_cascade_head_start_seconds"
    count = metrics.get(f"{prefix}_count", 0.0)
    head_start_s = metrics.get(f"{prefix}_sum", 0.0) / max(1.0, count)
    report.add(
        Figure("p95 of escalated requests cut by", 100 * cut, "%", at_least(25)),
        Figure("p95 cut if it started with the request", 100 * bound, "%"),
        Figure("head start, mean", 1e3 * head_start_s, "ms"),
    )
    report.details["metrics"] = dict(metrics)
    report.notes.append(
        f"{len(rounds)} prompts that both fleets escalate, one at a time, the fleets in turns; the "
        f"heavyweight begins to answer {_DELAY_S:g} s late; {count:g} of them had a head start"
    )
    report.notes.append(
        "an earlier start saves at most what the draft took until it was given up; the second cut "
        "says what that is here"
    )


if __name__ == "__main__":
    bench = CascadeBench()
    run_program(
        "cascade",
        "The cascade of the demo models.",
        {
            "calibration": bench.calibration,
            "answers": bench.answers,
            "hold": bench.hold,
            "speculation": bench.speculation,
        },
    )
