"""When a step counts as hung."""

from __future__ import annotations

from shoal_worker_gpu.progress import ProgressDeadline


def test_before_anything_is_measured_a_step_may_take_half_a_minute() -> None:
    assert ProgressDeadline().allowed_s(1) == 30.0


def test_what_is_predicted_counts_until_a_step_was_seen() -> None:
    deadline = ProgressDeadline(predicted_s=1.0)
    assert deadline.allowed_s(8) == 4 * (1.0 + 8 / 8)
    deadline.observe(0.01, 1)
    assert deadline.allowed_s(8) == 2.0


def test_short_steps_may_take_two_seconds() -> None:
    deadline = ProgressDeadline()
    deadline.observe(0.01, 1)
    assert deadline.allowed_s(8) == 2.0


def test_long_steps_may_take_four_times_as_long_as_predicted() -> None:
    deadline = ProgressDeadline()
    deadline.observe(2.0, 2)
    assert deadline.allowed_s(2) == 4 * (2.0 + 2 * 1.0)
    assert deadline.allowed_s(2, depth=3) == 12 * (2.0 + 2 * 1.0)


def test_the_prediction_follows_what_is_measured() -> None:
    deadline = ProgressDeadline()
    deadline.observe(10.0, 1)
    for _ in range(100):
        deadline.observe(1.0, 1)
    assert 4 * 1.9 < deadline.allowed_s(1) < 4 * 2.1
