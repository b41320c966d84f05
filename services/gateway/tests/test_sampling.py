"""Precedence of sampling values: request, gateway, checkpoint, built-in."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_gateway.sampling import SamplingDefaults, resolve
from shoal_gateway.task import ChatTask, Message, Sampling


def task(**fields: Any) -> ChatTask:
    return ChatTask(model="m", messages=(Message("user", "hi"),), sampling=Sampling(**fields))


@pytest.mark.parametrize(
    ("asked", "default", "checkpoint", "expected"),
    [
        (0.1, 0.2, {"temperature": 0.3}, 0.1),
        (0.0, 0.2, {"temperature": 0.3}, 0.0),
        (None, 0.2, {"do_sample": False}, 0.2),
        (None, None, {"do_sample": False, "temperature": 0.3}, 0.0),
        (None, None, {"do_sample": True, "temperature": 0.3}, 0.3),
        (None, None, {"temperature": None}, 0.7),
        (None, None, {"temperature": "hot"}, 0.7),
        (None, None, {}, 0.7),
    ],
)
def test_temperature_takes_the_first_that_is_set(
    asked: float | None, default: float | None, checkpoint: dict[str, Any], expected: float
) -> None:
    spec = resolve(task(temperature=asked), SamplingDefaults(temperature=default), checkpoint)
    assert spec.temperature == pytest.approx(expected)


def test_the_other_knobs_follow_the_same_line() -> None:
    checkpoint = {"top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1, "min_p": 0.05}
    spec = resolve(task(top_k=5), SamplingDefaults(top_p=0.9), checkpoint)
    assert spec.top_p == pytest.approx(0.9)
    assert spec.top_k == 5
    assert spec.repetition_penalty == pytest.approx(1.1)
    assert spec.min_p == pytest.approx(0.05)


def test_built_in_values_change_nothing() -> None:
    spec = resolve(task(), SamplingDefaults(), {})
    assert (spec.top_p, spec.top_k, spec.min_p, spec.repetition_penalty) == (1.0, 0, 0.0, 1.0)


def test_a_seed_is_kept_or_drawn_anew() -> None:
    assert resolve(task(seed=0), SamplingDefaults(), {}).seed == 0
    seeds = {resolve(task(), SamplingDefaults(), {}).seed for _ in range(4)}
    assert len(seeds) == 4
