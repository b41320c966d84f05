"""What an engine child makes of its settings."""

from __future__ import annotations

import math

import pytest

from shoal_worker_gpu.engine_child import head_limits
from shoal_worker_gpu.settings import Settings, engine_environment


def test_switches_turn_batching_chunking_and_fusing_off() -> None:
    on = head_limits(Settings(), 1000)
    assert (on.running_max, on.prefill_tokens_max, on.prefill_step_factor) == (32, 128, 2.0)
    assert on.prompts_per_step_max == 32
    assert head_limits(Settings(continuous_batching=False), 1000).running_max == 1
    whole = head_limits(Settings(chunked_prefill=False), 1000)
    assert whole.prefill_tokens_max >= 32 * 1000
    assert whole.prefill_step_factor == math.inf
    assert head_limits(Settings(batched_prefill=False), 1000).prompts_per_step_max == 1


def test_the_environment_may_say_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert engine_environment()["GOMP_SPINCOUNT"] == "20000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert engine_environment()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in engine_environment()
