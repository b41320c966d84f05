"""Memory is divided before it is taken."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from shoal_worker_gpu.errors import ModelDoesNotFit
from shoal_worker_gpu.memory import (
    MIB,
    MemoryNeed,
    cgroup_rest_bytes,
    free_memory_bytes,
    kv_block_count,
)

NEED = MemoryNeed(
    weight_bytes=1000 * MIB,
    step_bytes=50 * MIB,
    kv_block_bytes=1 * MIB,
    kv_blocks_min=32,
    kv_blocks_max=2048,
)


def test_kv_takes_half_of_what_the_weights_leave() -> None:
    assert kv_block_count("m", NEED, 3000 * MIB, 0) == (2850 - 1050) // 2


def test_kv_takes_no_more_than_it_can_use_or_was_told() -> None:
    assert kv_block_count("m", NEED, 100_000 * MIB, 0) == 2048
    assert kv_block_count("m", NEED, 100_000 * MIB, 512) == 512
    assert kv_block_count("m", NEED, 1500 * MIB, 100_000) == 1425 - 1050


@pytest.mark.parametrize("free_mb", [0, 900, 1100, 1170])
def test_a_model_that_does_not_fit_is_refused_with_the_figures(free_mb: int) -> None:
    figures = f"1000 MiB of weights, 50 MiB for a step and 32 MiB of KV.*{free_mb} MiB are free"
    with pytest.raises(ModelDoesNotFit, match=figures):
        kv_block_count("m", NEED, free_mb * MIB, 0)


def test_a_limit_below_the_least_useful_kv_is_refused() -> None:
    with pytest.raises(ModelDoesNotFit):
        kv_block_count("m", NEED, 100_000 * MIB, 31)


def test_a_control_group_limits_what_is_free(tmp_path: Path) -> None:
    v2, v1 = tmp_path / "v2", tmp_path / "v1"
    assert cgroup_rest_bytes(v2, v1) > 1 << 50
    v1.mkdir()
    (v1 / "memory.limit_in_bytes").write_text("1000\n")
    (v1 / "memory.usage_in_bytes").write_text("700\n")
    (v1 / "memory.stat").write_text("cache 500\ntotal_inactive_file 200\n")
    assert cgroup_rest_bytes(v2, v1) == 500
    assert free_memory_bytes(v2, v1) == 500
    v2.mkdir()
    (v2 / "memory.max").write_text("max\n")
    (v2 / "memory.current").write_text("700\n")
    (v2 / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    assert cgroup_rest_bytes(v2, v1) > 1 << 50
    (v2 / "memory.max").write_text("900\n")
    assert free_memory_bytes(v2, v1) == 300


def test_the_machine_limits_what_is_free(tmp_path: Path) -> None:
    assert 0 < free_memory_bytes(tmp_path, tmp_path) <= psutil.virtual_memory().total
