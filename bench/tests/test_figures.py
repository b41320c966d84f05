"""Targets, verdicts and the forms in which results are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.figures import Figure, Report, at_least, at_most, number, ratio_figure, table, write
from bench.plots import save
from bench.rounds import Ratio


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (at_least(2), 2.0, "met"),
        (at_least(2), 1.99, "missed"),
        (at_most(5), 5.0, "met"),
        (at_most(5), 5.01, "missed"),
        (None, 1.0, ""),
    ],
)
def test_verdicts(target: object, value: float, verdict: str) -> None:
    assert Figure("x", value, target=target).verdict == verdict  # type: ignore[arg-type]


def test_share_of_a_target_is_one_when_just_met() -> None:
    assert at_least(4).share(4) == at_most(4).share(4) == 1
    assert at_least(4).share(2) == at_most(4).share(8) == 0.5
    assert at_most(4).share(-1) > 1
    assert at_most(4).share(0) > 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (2.0, "2.00"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def report() -> Report:
    found = Report("speed", load_before=[1.0, 2.0, 3.0], load_after=[4.0, 5.0, 6.0], wall_s=7)
    found.add(ratio_figure("a to b", Ratio(3.0, 2.5, 3.5), at_least(4)), Figure("a", 10.0, "tok/s"))
    found.notes.append("said beside it")
    return found


def test_the_table_holds_every_figure_with_its_verdict() -> None:
    text = table([report(), Report("other", skipped="no setting X")])
    row = next(line for line in text.splitlines() if "a to b" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["speed", "a to b", "3.00 x", "2.50 to 3.50", ">= 4.00", "missed"]
    assert "10.0 tok/s" in text
    assert "other: skipped, no setting X" in text
    assert "load 1.0/2.0/3.0 before, 4.0/5.0/6.0 after" in text
    assert "said beside it" in text


def test_results_are_written_as_json_table_and_plot(tmp_path: Path) -> None:
    write([report()], {"core_count": 2}, tmp_path / "out" / "speed")
    save([report()], tmp_path / "out" / "speed.png")
    data = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert data["machine"] == {"core_count": 2}
    assert data["reports"][0]["figures"][0]["verdict"] == "missed"
    assert data["reports"][0]["load_after"] == [4.0, 5.0, 6.0]
    assert "a to b" in (tmp_path / "out" / "speed.md").read_text()
    assert (tmp_path / "out" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_targets_is_not_drawn(tmp_path: Path) -> None:
    save([Report("speed", [Figure("a", 1.0)])], tmp_path / "speed.png")
    assert not (tmp_path / "speed.png").exists()
