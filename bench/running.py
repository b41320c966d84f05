"""Runs measurements one after the other and writes what they say; the command line they share.

A measurement that cannot run is reported with the reason; one that fails is reported as failed, the
others run, and the program's exit status says so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.checkpoints import DEFAULT_FOLDER
from bench.conditions import Conditions
from bench.figures import Report, Skipped, table, write
from bench.fleets import ROOT
from bench.plots import save
from bench.rounds import machine_load

log = logging.getLogger(__name__)

Measure = Callable[[Report, Conditions], Awaitable[None]]
"""Adds its figures to the report. Raises Skipped."""


def run_program(
    name: str, about: str, measurements: Mapping[str, Measure], argv: Sequence[str] | None = None
) -> None:
    """Parse the command line and measure; results are called `name`, or `name`-quick."""
    parser = argparse.ArgumentParser(prog=f"bench.{name}", description=about)
    parser.add_argument(
        "--only", action="append", choices=list(measurements), help="run this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="demo model and few rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--checkpoints", type=Path, default=DEFAULT_FOLDER)
    chosen = parser.parse_args(argv)
    conditions = Conditions(chosen.checkpoints, chosen.quick)
    stem = chosen.out / (f"{name}-quick" if chosen.quick else name)
    wanted = {key: measurements[key] for key in chosen.only or measurements}
    reports = run(wanted, conditions, stem)
    failed = [report.name for report in reports if report.failed]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(measurements: Mapping[str, Measure], conditions: Conditions, stem: Path) -> list[Report]:
    """Measure, print, and write `stem`.json, .md and .png, anew after each measurement."""
    reports: list[Report] = []
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    about = {**machine(), "started": started, "quick": conditions.is_quick}
    for name, measure in measurements.items():
        print(f"measuring {name} ...", flush=True)
        reports.append(asyncio.run(observed(name, measure, conditions)))
        print(table(reports[-1:]), flush=True)
        write(reports, about, stem)
        save(reports, stem.with_suffix(".png"))
    print(f"written to {stem}.json, .md and .png")
    return reports


async def observed(name: str, measure: Measure, conditions: Conditions) -> Report:
    """One measurement with the machine's load around it; without figures it says why."""
    load_before, began = machine_load(), time.perf_counter()
    report = Report(name)
    try:
        await measure(report, conditions)
    except Skipped as err:
        report.skipped = str(err)
    except Exception as err:
        log.exception("measurement failed", extra={"measurement": name})
        report.failed = f"{type(err).__name__}: {err}"
    report.load_before, report.load_after = load_before, machine_load()
    report.wall_s = time.perf_counter() - began
    return report


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": _processor(),
        "core_count": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
