"""What an engine child makes of its settings."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from shoal_common.ids import new_incarnation
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.engine_child import EngineChild, head_limits
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.settings import Settings, engine_environment
from shoal_worker_gpu.testing import HashBackend

from .conftest import Node


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


async def test_a_status_says_what_plans_are_made_of(tmp_path: Path) -> None:
    settings = Settings(prefix_cache_scope="fleet", max_running=7)
    order = Order("w", Assignment("m"), 1, tmp_path / "ready", settings, "", os.getpid())
    child = EngineChild(Order.parse(order.dump()))
    assert (child.status().kv_format, child.status().layer_prefill_ns) == ("", 0)
    node = Node(HashBackend(0, 2, 2), settings, new_incarnation())
    await node.start()
    try:
        child._rpc.engine = node.engine
        node.engine.core.pace.observe(2, 0, 300.0)
        node.engine.core.pace.observe(0, 64, 640.0)
        status = child.status()
        assert (status.layer_time_us, status.layer_prefill_ns) == (300, 10_000)
        assert (status.running_max, status.kv_format, status.shares_prefixes) == (7, "ids", True)
    finally:
        await node.stop()
