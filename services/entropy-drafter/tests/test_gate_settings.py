"""Rules from settings: what a profile gives, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from shoal_common.settings import ConfigurationError, load, read, variable_of
from shoal_entropy_drafter.gate import GateRules
from shoal_entropy_drafter.gate_settings import DEMO, gate_rules
from shoal_entropy_drafter.settings import Settings


def problems_of(**values: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        gate_rules(Settings(**values))  # type: ignore[arg-type]
    return caught.value.problems


def test_the_published_profile_has_the_published_numbers() -> None:
    rules = gate_rules(Settings(profile="published", drafter_model="gpt-4.1-nano"))
    assert rules == GateRules(
        threshold=2.0,
        window_size=10,
        early_exit_count=10,
        candidate_count=5,
        soft_threshold_mult=0.8,
        statistic="mean",
        estimate="renormalised",
        is_speculative=True,
    )
    assert rules.soft_threshold == pytest.approx(1.6)


def test_the_published_profile_is_taken_for_any_drafter() -> None:
    assert gate_rules(Settings(profile="published", drafter_model="other")).threshold == 2.0


def test_the_demo_models_have_their_own_calibration() -> None:
    rules = gate_rules(Settings())
    assert rules.threshold == DEMO.threshold_bits
    assert (rules.window_size, rules.early_exit_count) == (DEMO.window_size, DEMO.early_exit_count)
    assert rules.candidate_count == DEMO.top_logprobs == 20
    assert DEMO.drafter_model == Settings().drafter_model


def test_what_is_set_wins_over_the_profile() -> None:
    rules = gate_rules(
        Settings(
            drafter_model="mine",
            calibrated_for="mine",
            threshold_bits=0.5,
            window_size=7,
            early_exit_count=3,
            top_logprobs=4,
            soft_threshold_mult=0.6,
            statistic="margin",
            entropy_estimate="upper",
            speculative_enabled=False,
        )
    )
    assert rules == GateRules(0.5, 7, 3, 4, 0.6, "margin", "upper", is_speculative=False)


def test_another_window_keeps_the_threshold() -> None:
    assert gate_rules(Settings(window_size=8)).threshold == DEMO.threshold_bits


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("drafter_model", "qwen3-0.6b"),
        ("top_logprobs", 5),
        ("statistic", "margin"),
        ("entropy_estimate", "upper"),
    ],
)
def test_a_threshold_that_was_measured_with_something_else_is_refused(
    option: str, value: object
) -> None:
    (problem,) = problems_of(**{option: value})
    assert problem.startswith("threshold_bits (SHOAL_ENTROPY_DRAFTER_THRESHOLD_BITS) is not set")
    assert f"not {value} ({variable_of('entropy_drafter', option)})" in problem
    assert "`shoal calibrate`" in problem
    assert gate_rules(Settings(threshold_bits=0.9, **{option: value}))  # type: ignore[arg-type]


def test_the_published_threshold_belongs_to_five_candidates() -> None:
    (problem,) = problems_of(profile="published", drafter_model="gpt-4.1-nano", top_logprobs=20)
    assert "top_logprobs 5, not 20" in problem


def test_a_calibration_for_another_drafter_is_refused() -> None:
    (problem,) = problems_of(drafter_model="new", calibrated_for="old", threshold_bits=1.0)
    assert "calibrated_for (SHOAL_ENTROPY_DRAFTER_CALIBRATED_FOR) is 'old'" in problem
    assert "'new'" in problem
    assert "`shoal calibrate`" in problem


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({"top_logprobs": 5, "threshold_bits": math.log2(5)}, "2.32"),
        ({"top_logprobs": 2, "threshold_bits": 1.0}, "1.00"),
        ({"threshold_bits": 4.4, "statistic": "max"}, "4.32"),
        ({"threshold_bits": 1.0, "statistic": "margin"}, "1.00"),
        ({"threshold_bits": 20.0, "entropy_estimate": "upper"}, "20.00"),
        ({"threshold_bits": math.inf}, "4.32"),
    ],
)
def test_a_threshold_that_nothing_exceeds_is_refused(values: dict[str, object], most: str) -> None:
    (problem,) = problems_of(**values)
    assert problem.startswith("threshold_bits (SHOAL_ENTROPY_DRAFTER_THRESHOLD_BITS)")
    assert "would never escalate" in problem
    assert f"at most {most}" in problem


def test_a_threshold_just_below_the_most_is_taken() -> None:
    assert gate_rules(Settings(top_logprobs=5, threshold_bits=2.32)).threshold == 2.32
    assert gate_rules(Settings(statistic="margin", threshold_bits=0.99)).threshold == 0.99


def test_every_problem_is_told_at_once() -> None:
    found = problems_of(drafter_model="new", calibrated_for="old", top_logprobs=5)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("threshold_bits", "0"),
        ("threshold_bits", "-1"),
        ("threshold_bits", "nan"),
        ("window_size", "0"),
        ("window_size", "1025"),
        ("early_exit_count", "0"),
        ("top_logprobs", "1"),
        ("top_logprobs", "0"),
        ("top_logprobs", "21"),
        ("soft_threshold_mult", "0"),
        ("soft_threshold_mult", "1.1"),
        ("statistic", "median"),
        ("entropy_estimate", "guess"),
        ("profile", "mine"),
    ],
)
def test_values_without_sense_are_refused_by_name(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = variable_of("entropy_drafter", option)
    with pytest.raises(ConfigurationError) as caught:
        read(Settings, {"data_dir": str(tmp_path)}, {variable: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{option} (from {variable}): ")

    flag = f"--{option.replace('_', '-')}={value}"
    with pytest.raises(SystemExit) as ended:
        load(Settings, ["--data-dir", str(tmp_path), flag], {})
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_written_calibration_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[entropy_drafter]\nthreshold_bits = 1.25\ncalibrated_for = 'drafter'\n", encoding="utf-8"
    )
    found = read(Settings, {"data_dir": str(tmp_path)}, {})
    assert gate_rules(found).threshold == 1.25
