"""`python -m tests.sim`: many seeds, or one with its story."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.sim.runner import Report, play
from tests.sim.scenario import Kind

# What goes wrong first says most.
_TOLD_MAX = 4


def main() -> int:
    arguments = _arguments()
    # Sets of names are walked in the order of their hashes.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    kind = Kind(arguments.kind) if arguments.kind else None
    if arguments.seed is not None:
        report = play(arguments.seed, kind, is_traced=arguments.trace)
        _tell(report, arguments.kind)
        sys.stdout.write(f"{report}\n")
        return bool(report.breaches)
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--kind", choices=[kind.value for kind in Kind], help="instead of any")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--tell", action="store_true", help="a line for every seed")
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    return parser.parse_args()


def _many(seeds: range, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    failed = 0
    outcomes: Counter[str] = Counter()
    virtual_s = 0.0
    for count, report in enumerate(_reports(seeds, arguments), 1):
        if report.breaches:
            failed += 1
            _clear()
            _tell(report, arguments.kind)
        if arguments.tell:
            sys.stdout.write(f"{report}\n")
        outcomes.update(report.outcomes)
        virtual_s += report.virtual_s
        rate = count / (time.monotonic() - started)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{count}/{len(seeds)} seeds, {failed} failed, {rate:.1f}/s ")
            sys.stderr.flush()
    _clear()
    took_s = time.monotonic() - started
    sys.stdout.write(
        f"{len(seeds)} seeds, {failed} failed; {virtual_s / 3600:.1f} h in {took_s:.0f} s\n"
    )
    for how, number in outcomes.most_common():
        sys.stdout.write(f"  {number:6d} {how}\n")
    return bool(failed)


def _reports(seeds: range, arguments: argparse.Namespace) -> Iterator[Report]:
    work = [(seed, arguments.kind) for seed in seeds]
    if arguments.jobs == 1:
        yield from map(_one, work)
        return
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        yield from pool.imap_unordered(_one, work)


def _one(work: tuple[int, str | None]) -> Report:
    seed, kind = work
    return play(seed, Kind(kind) if kind else None)


def _tell(report: Report, kind: str | None) -> None:
    for breach in report.breaches[:_TOLD_MAX]:
        sys.stdout.write(f"seed {report.seed} ({report.kind}): {breach}\n")
    if report.breaches:
        also = f" --kind {kind}" if kind else ""
        sys.stdout.write(f"  python -m tests.sim --seed {report.seed}{also} --trace\n")
    sys.stdout.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 60 + "\r")


if __name__ == "__main__":
    sys.exit(main())
