"""Cores from the control group's quota."""

from __future__ import annotations

from pathlib import Path

from shoal_worker_gpu.cores import cgroup_quota, owned_cores


def test_quota_of_version_two(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    assert cgroup_quota(limit, tmp_path / "none") == 1.5


def test_no_limit_is_none(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text("max 100000\n")
    assert cgroup_quota(limit, tmp_path / "none") is None
    assert cgroup_quota(tmp_path / "absent", tmp_path / "none") is None


def test_quota_of_version_one(tmp_path: Path) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert cgroup_quota(tmp_path / "absent", tmp_path) == 2.0


def test_at_least_one_core() -> None:
    assert owned_cores() >= 1
