"""A run goes on over measurements that cannot run or fail, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.conditions import Conditions
from bench.figures import Figure, Report, Skipped
from bench.running import run, run_program


async def good(report: Report, conditions: Conditions) -> None:
    report.add(Figure("speed", 2.0))
    with report.part("the other half"):
        raise Skipped("no setting Y")


async def skipped(report: Report, conditions: Conditions) -> None:
    raise Skipped("no setting X")


async def failing(report: Report, conditions: Conditions) -> None:
    report.add(Figure("before it failed", 1.0))
    raise RuntimeError("it fell over")


def test_every_measurement_has_a_report(tmp_path: Path) -> None:
    measurements = {"failing": failing, "skipped": skipped, "good": good}
    reports = run(measurements, Conditions(tmp_path, is_quick=True), tmp_path / "out")
    assert [(r.name, r.skipped, r.failed) for r in reports] == [
        ("failing", "", "RuntimeError: it fell over"),
        ("skipped", "no setting X", ""),
        ("good", "", ""),
    ]
    assert reports[2].notes == ["the other half left out: no setting Y"]
    assert len(reports[0].load_before) == len(reports[0].load_after) == 3
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["machine"]["quick"] is True
    assert data["reports"][0]["figures"][0]["name"] == "before it failed"
    assert "skipped, no setting X" in (tmp_path / "out.md").read_text()


def test_the_exit_status_names_what_failed(tmp_path: Path) -> None:
    argv = ["--quick", "--out", str(tmp_path), "--only", "failing"]
    with pytest.raises(SystemExit, match="failing"):
        run_program("engine", "", {"failing": failing, "good": good}, argv)
    run_program("engine", "", {"failing": failing, "good": good}, [*argv[:3], "--only", "good"])
    data = json.loads((tmp_path / "engine-quick.json").read_text())
    assert [report["name"] for report in data["reports"]] == ["good"]


def test_only_known_measurements_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_program("engine", "", {"good": good}, ["--only", "better"])
    assert "good" in capsys.readouterr().err
