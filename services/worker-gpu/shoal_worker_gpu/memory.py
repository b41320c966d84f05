"""How much memory there is, and how it is divided before a model is loaded.

A model that does not fit is refused with the figures while nothing is loaded yet: later, the
kernel would kill a process, and not always the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from shoal_worker_gpu.errors import ModelDoesNotFit

MIB = 1 << 20
_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")
_UNLIMITED = 1 << 60
# What is left for others: the system, its page cache, and what nobody has foreseen.
_RESERVE_SHARE = 0.05
_KV_SHARE = 0.5


@dataclass(frozen=True)
class MemoryNeed:
    """Of a stage, in bytes. kv_blocks_min: without them it could serve nobody. kv_blocks_max: more
    it could never use."""

    weight_bytes: int
    step_bytes: int
    kv_block_bytes: int
    kv_blocks_min: int
    kv_blocks_max: int


def kv_block_count(model: str, need: MemoryNeed, free_bytes: int, kv_memory_mb: int) -> int:
    """KV blocks for a stage on a machine with `free_bytes`.

    kv_memory_mb: an upper limit; 0 takes what is useful, at most half of what the weights leave,
    because other engines may load here as well. Raises ModelDoesNotFit.
    """
    usable = int(free_bytes * (1 - _RESERVE_SHARE))
    left = usable - need.weight_bytes - need.step_bytes
    share = kv_memory_mb * MIB if kv_memory_mb else int(left * _KV_SHARE)
    blocks = min(need.kv_blocks_max, min(share, left) // need.kv_block_bytes)
    if blocks < min(need.kv_blocks_min, need.kv_blocks_max):
        raise ModelDoesNotFit(
            model,
            weight_mb=need.weight_bytes // MIB,
            step_mb=-(-need.step_bytes // MIB),
            kv_mb=-(-need.kv_blocks_min * need.kv_block_bytes // MIB),
            free_mb=free_bytes // MIB,
        )
    return blocks


def free_memory_bytes(v2: Path = _CGROUP_V2, v1: Path = _CGROUP_V1) -> int:
    """What a new process may take: the least of the machine's and the control group's rest."""
    available: int = psutil.virtual_memory().available
    return max(0, min(available, cgroup_rest_bytes(v2, v1)))


def cgroup_rest_bytes(v2: Path, v1: Path) -> int:
    """What the control group still allows; very much without a limit.

    Files that could be dropped from the page cache count as free.
    """
    files = (
        (v2 / "memory.max", v2 / "memory.current", v2 / "memory.stat", "inactive_file"),
        (
            v1 / "memory.limit_in_bytes",
            v1 / "memory.usage_in_bytes",
            v1 / "memory.stat",
            "total_inactive_file",
        ),
    )
    for limit_file, used_file, stat_file, name in files:
        try:
            limit = limit_file.read_text().strip()
            used = int(used_file.read_text())
            stat = dict(line.split() for line in stat_file.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit == "max":
            return _UNLIMITED
        return int(limit) - used + int(stat.get(name, 0))
    return _UNLIMITED
