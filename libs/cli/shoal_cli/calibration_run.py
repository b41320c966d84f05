"""One calibration from prompts to files: what `shoal calibrate` does with its options."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_cli.calibrated_config import options_of, write_options
from shoal_cli.calibration_answers import AnswerBook, Asking, Collected, Collector
from shoal_cli.calibration_target import Target, find_target, parameters_of
from shoal_cli.client import GatewayClient
from shoal_cli.errors import BadOptions, GatewayFailed
from shoal_entropy_drafter.calibration.cases import CASES_MIN, Case, case_of
from shoal_entropy_drafter.calibration.choice import EARLY_EXIT_COUNTS, WINDOW_SIZES, judgings
from shoal_entropy_drafter.calibration.prompts import LabelledPrompt, read_prompts
from shoal_entropy_drafter.calibration.replay import Judging
from shoal_entropy_drafter.calibration.report import Asked, Calibration, calibrate
from shoal_entropy_drafter.entropy import Statistic

FAILED_SHARE_MAX = 0.05
"""Beyond that the figures would be about the prompts that happened to be answered."""
SUITE = ("benchmark-518.jsonl", "benchmark-519.jsonl")
DEFAULT_WINDOW = 4

Counter = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""`terminal.counter`: what is counted, how many."""


@dataclass(frozen=True)
class Options:
    """What was asked. prompts: none for the demo benchmark. config: None to write nothing."""

    out: Path
    prompts: tuple[Path, ...] = ()
    test: Path | None = None
    heavyweight: str | None = None
    parameters: str | None = None
    window_size: int | None = None
    early_exit_count: int | None = None
    statistic: Statistic | None = None
    has_grid: bool = True
    max_tokens: int = 512
    concurrency: int = 1
    is_fresh: bool = False
    config: Path | None = None


@dataclass(frozen=True)
class Sets:
    """Prompts to choose on and to report on."""

    calibrate: tuple[LabelledPrompt, ...]
    test: tuple[LabelledPrompt, ...]

    @property
    def questions(self) -> tuple[LabelledPrompt, ...]:
        """All of them, a question of both sets once."""
        once = {prompt.key: prompt for prompt in (*self.test, *self.calibrate)}
        return tuple(once.values())


@dataclass(frozen=True)
class Calibrated:
    """What came of it: figures, files, and what should be known besides."""

    calibration: Calibration
    json_file: Path
    picture: Path | None
    config: Path | None
    backup: Path | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """One object: the figures, where files went, notes."""
        return {
            **self.calibration.as_json(),
            "notes": list(self.notes),
            "files": {
                "json": str(self.json_file),
                "picture": str(self.picture) if self.picture else None,
                "config": str(self.config) if self.config else None,
                "config_backup": str(self.backup) if self.backup else None,
            },
        }


async def run(client: GatewayClient, options: Options, counter: Counter) -> Calibrated:
    """Ask both models, calibrate, write files. Raises ShoalError."""
    sets = read_sets(options)
    async with client:
        target = await find_target(client, options.heavyweight)
        parameters = parameters_of(options.parameters, target)
        asking = Asking(target.drafter, target.heavyweight, options.max_tokens, options.concurrency)
        answers = options.out / "answers.jsonl"
        with (
            AnswerBook(answers, options.is_fresh) as book,
            counter("answers", 2 * len(sets.questions)) as step,
        ):
            collected = await Collector(client, asking, book, step).collect(sets.questions)
    notes = _failure_notes(collected, len(sets.questions))
    asked = Asked(
        target.drafter, target.heavyweight, parameters, _grid(options, target), target.current
    )
    cases, test_cases = (_cases(part, collected) for part in (sets.calibrate, sets.test))
    with counter("gates", len(asked.grid)) as step:
        calibration = await asyncio.to_thread(calibrate, asked, cases, test_cases, step)
    return _written(calibration, options, [*notes, *calibration.notes])


def read_sets(options: Options) -> Sets:
    """The prompts, divided. Raises PromptsBroken, BadOptions.

    Without a test file: those that say so in their `set`; where none does, half of them, told by
    their ids, if that leaves enough to choose on.
    """
    paths = options.prompts or (shipped_prompts(SUITE[0]),)
    test_path = options.test or (None if options.prompts else shipped_prompts(SUITE[1]))
    prompts = _distinct([prompt for path in paths for prompt in read_prompts(path)])
    if len(prompts) < CASES_MIN:
        raise BadOptions(
            f"{len(prompts)} prompts are too few to choose a threshold on; at least {CASES_MIN} "
            "are needed"
        )
    if test_path is not None:
        return Sets(tuple(prompts), tuple(read_prompts(test_path)))
    marked = tuple(prompt for prompt in prompts if prompt.prompt_set == "test")
    if not marked and len(prompts) >= 2 * CASES_MIN:
        marked = tuple(prompt for prompt in prompts if _is_second_half(prompt))
    chosen = {prompt.prompt_id for prompt in marked}
    return Sets(tuple(p for p in prompts if p.prompt_id not in chosen), marked)


def shipped_prompts(name: str) -> Path:
    """A file of the demo benchmark. Raises BadOptions where it is not installed beside this."""
    path = Path(__file__).resolve().parents[3] / "models" / "suite" / name
    if not path.is_file():
        raise BadOptions(
            "no demo benchmark next to this installation: name labelled prompts with --prompts"
        )
    return path


def _distinct(prompts: Sequence[LabelledPrompt]) -> list[LabelledPrompt]:
    """Raises BadOptions where files share an id: their answers could not be told apart."""
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in seen:
            raise BadOptions(f"two prompts of the files have the id '{prompt.prompt_id}'")
        seen.add(prompt.prompt_id)
    return list(prompts)


def _is_second_half(prompt: LabelledPrompt) -> bool:
    return hashlib.sha256(prompt.prompt_id.encode()).digest()[0] % 2 == 1


def _grid(options: Options, target: Target) -> tuple[Judging, ...]:
    """The ways to judge that are tried, the one in effect among them."""
    current = target.current
    statistic = options.statistic
    if not options.has_grid:
        window = options.window_size or (current.window_size if current else DEFAULT_WINDOW)
        early_exit = options.early_exit_count or (current.early_exit_count if current else window)
        estimate = current.estimate if current else "renormalised"
        wanted = statistic or (current.statistic if current else "mean")
        return (Judging(window, early_exit, target.candidate_count, wanted, estimate),)
    windows = (options.window_size,) if options.window_size else WINDOW_SIZES
    exits = (options.early_exit_count,) if options.early_exit_count else EARLY_EXIT_COUNTS
    statistics: tuple[Statistic, ...] = (statistic,) if statistic else ("mean", "max", "margin")
    found = judgings(target.candidate_count, windows, exits, statistics)
    fits = (
        current is not None
        and current.window_size in windows
        and current.statistic in statistics
        and options.early_exit_count in (None, current.early_exit_count)
    )
    if current is not None and fits and current not in found:
        found.append(current)
    return tuple(found)


def _cases(prompts: Sequence[LabelledPrompt], collected: Collected) -> list[Case]:
    """Prompts that both models answered."""
    return [
        case_of(prompt, collected.drafts[prompt.key], collected.heavies[prompt.key])
        for prompt in prompts
        if prompt.key in collected.drafts and prompt.key in collected.heavies
    ]


def _failure_notes(collected: Collected, asked_count: int) -> list[str]:
    """What is said of prompts without an answer. Raises GatewayFailed where they are too many."""
    failures = collected.failures
    if not failures:
        return []
    last = failures[-1]
    detail = f"the last was {last.prompt_id} by the {last.role}: {last.detail}"
    lost = len({failure.prompt_id for failure in failures})
    if lost > FAILED_SHARE_MAX * asked_count:
        raise GatewayFailed(
            f"{lost} of {asked_count} prompts could not be answered ({detail}); the other answers "
            "are kept: run the command again to go on"
        )
    what = "1 prompt" if lost == 1 else f"{lost} prompts"
    return [f"without {what} that could not be answered; {detail}"]


def _written(calibration: Calibration, options: Options, notes: list[str]) -> Calibrated:
    """Picture, JSON and config."""
    options.out.mkdir(parents=True, exist_ok=True)
    picture: Path | None = options.out / "calibration.png"
    try:
        from shoal_entropy_drafter.calibration.plot import draw
    except ModuleNotFoundError:
        picture = None
        notes.append("no picture: it is drawn once `pip install matplotlib` was run")
    else:
        assert picture is not None
        draw(calibration, picture)
    config = options.config.expanduser() if options.config else None
    backup = write_options(config, options_of(calibration)) if config else None
    json_file = options.out / "calibration.json"
    done = Calibrated(calibration, json_file, picture, config, backup, tuple(notes))
    data = {**done.as_json(), "curves": calibration.curves_json()}
    json_file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return done
