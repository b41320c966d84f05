"""The gate's rules, from the settings.

Owns: the numbers that ship, what they were measured with, which settings make no sense together.
Does not know: what the rules do with a draft (`gate`).

A threshold belongs to the model, the number of candidates, the statistic and the estimate that it
was measured with. Where one of them is changed, the threshold that ships means nothing and is
refused; a window of another size only moves the trade between cost and accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from shoal_common.settings import ConfigurationError, variable_of
from shoal_entropy_drafter.entropy import doubt_max
from shoal_entropy_drafter.gate import GateRules
from shoal_entropy_drafter.refusals import named
from shoal_entropy_drafter.settings import Settings

Profile = Literal["shoal", "published"]
_Number = TypeVar("_Number", int, float)
_SERVICE = Settings.service


@dataclass(frozen=True)
class Calibration:
    """Numbers measured with one drafter; statistic "mean", estimate "renormalised"."""

    drafter_model: str
    threshold_bits: float
    window_size: int
    early_exit_count: int
    top_logprobs: int
    soft_threshold_mult: float = 0.8


DEMO = Calibration(
    "drafter", threshold_bits=0.8, window_size=4, early_exit_count=4, top_logprobs=20
)
"""Of the demo models that ship."""
PUBLISHED = Calibration(
    "gpt-4.1-nano", threshold_bits=2.0, window_size=10, early_exit_count=10, top_logprobs=5
)
"""As published; whoever names this profile takes them for any drafter."""
PROFILES: dict[Profile, Calibration] = {"shoal": DEMO, "published": PUBLISHED}


def gate_rules(settings: Settings) -> GateRules:
    """The rules in effect: what is set, the rest from the profile.

    Meant for services that draft. Raises ConfigurationError naming every option that cannot be
    used, its variable and what to do.
    """
    profile = PROFILES[settings.profile]
    rules = GateRules(
        threshold=_chosen(settings.threshold_bits, profile.threshold_bits),
        window_size=_chosen(settings.window_size, profile.window_size),
        early_exit_count=_chosen(settings.early_exit_count, profile.early_exit_count),
        candidate_count=_chosen(settings.top_logprobs, profile.top_logprobs),
        soft_threshold_mult=_chosen(settings.soft_threshold_mult, profile.soft_threshold_mult),
        statistic=settings.statistic,
        estimate=settings.entropy_estimate,
        is_speculative=settings.speculative_enabled,
    )
    if problems := [*_foreign_threshold(settings, profile), *_idle_threshold(rules)]:
        raise ConfigurationError(problems)
    return rules


def _chosen(value: _Number | None, otherwise: _Number) -> _Number:
    return otherwise if value is None else value


def _foreign_threshold(settings: Settings, profile: Calibration) -> Iterator[str]:
    """Why the threshold was measured with something else than what is set."""
    measured_for = settings.calibrated_for
    if measured_for and measured_for != settings.drafter_model:
        yield (
            f"{named('calibrated_for')} is '{measured_for}', but {named('drafter_model')} is "
            f"'{settings.drafter_model}': measure its threshold with `shoal calibrate`, or name "
            "the model that threshold_bits was measured with"
        )
    if settings.threshold_bits is not None:
        return
    changed = dict(_changes(settings, profile))
    # Who names that profile wants its numbers, whatever the drafter.
    if settings.profile == "published":
        changed.pop("drafter_model", None)
    for option, (value, measured_with) in changed.items():
        yield (
            f"{named('threshold_bits')} is not set, and that of profile '{settings.profile}' was "
            f"measured with {option} {measured_with}, not {value} ({variable_of(_SERVICE, option)})"
            ": set it to a guess, such as 1, and run `shoal calibrate`, which writes the right one"
        )


def _changes(
    settings: Settings, profile: Calibration
) -> Iterator[tuple[str, tuple[object, object]]]:
    """Options that a threshold belongs to and that differ from the profile's: (is, was)."""
    measured_with = {
        "drafter_model": profile.drafter_model,
        "top_logprobs": profile.top_logprobs,
        "statistic": "mean",
        "entropy_estimate": "renormalised",
    }
    for option, was in measured_with.items():
        value = getattr(settings, option)
        if value is not None and value != was:
            yield option, (value, was)


def _idle_threshold(rules: GateRules) -> Iterator[str]:
    """Why the gate would let everything pass."""
    most = doubt_max(rules.statistic, rules.estimate, rules.candidate_count)
    if rules.threshold >= most:
        yield (
            f"{named('threshold_bits')} {rules.threshold:g} would never escalate: statistic "
            f"'{rules.statistic}' of estimate '{rules.estimate}' reaches at most {most:.2f} with "
            f"top_logprobs {rules.candidate_count}: lower it, or measure it with `shoal calibrate`"
        )
