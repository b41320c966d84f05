"""How many cores this process really owns."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def owned_cores() -> int:
    """The least of affinity and cgroup quota, at least 1.

    A thread more than there are cores makes torch's spin barriers collapse.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cgroup_quota(_CGROUP_V2, _CGROUP_V1)
    return max(1, min(affinity or 1, int(quota) if quota is not None else 1 << 16))


def cgroup_quota(v2: Path, v1: Path) -> float | None:
    """Cores that the control group allows; None without a limit."""
    try:
        limit, period = v2.read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((v1 / "cpu.cfs_quota_us").read_text())
        period_us = int((v1 / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 else None
