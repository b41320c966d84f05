"""Decode steps and prompts are measured apart."""

from __future__ import annotations

import pytest

from shoal_worker_gpu.layer_pace import LayerPace


def test_decode_steps_give_a_time_per_step_and_prompts_one_per_token() -> None:
    pace = LayerPace()
    pace.observe(4, 0, 500.0)
    pace.observe(0, 100, 2000.0)
    assert (pace.decode_us, pace.prefill_ns) == (500.0, 20_000.0)
    pace.observe(4, 100, 2500.0)
    assert (pace.decode_us, pace.prefill_ns) == (500.0, 20_000.0), "decode rows cost their own"


def test_averages_move_slowly() -> None:
    pace = LayerPace()
    pace.observe(1, 0, 100.0)
    pace.observe(1, 0, 200.0)
    assert pace.decode_us == pytest.approx(110.0)


def test_a_handful_of_prompt_tokens_says_nothing_of_one_token() -> None:
    pace = LayerPace()
    pace.observe(0, 2, 500.0)
    assert (pace.decode_us, pace.prefill_ns) == (0.0, 0.0)
