"""Which Redis a fleet gets."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from shoal_cli import up
from shoal_cli.fleet import ModelFolder, OwnRedis, UpOptions
from shoal_cli.terminal import Terminal
from shoal_common.redis_program import find_redis


def own_redis(data_dir: Path, environment: dict[str, str]) -> tuple[OwnRedis | None, str]:
    """What is started, and what is said about it."""
    output = io.StringIO()
    options = UpOptions(data_dir, 8800, (ModelFolder("m", Path("/m"), 2),))
    terminal = Terminal(Console(file=output, width=200))
    return up.own_redis(options, environment, 4, terminal), output.getvalue()


def test_a_fleet_has_a_redis_of_its_own_with_a_kept_password(tmp_path: Path) -> None:
    first, said = own_redis(tmp_path, {})
    assert first is not None
    assert said == ""
    assert (first.program, first.port) == (find_redis(), 4)
    assert (tmp_path / "redis_password").stat().st_mode & 0o777 == 0o600
    again, _ = own_redis(tmp_path, {})
    assert again == first


def test_a_fleet_that_is_given_a_redis_starts_none(tmp_path: Path) -> None:
    assert own_redis(tmp_path, {"REDIS_URL": "redis://other"}) == (None, "")


def test_without_a_program_the_fleet_says_once_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "find_redis", lambda: None)
    redis, said = own_redis(tmp_path, {})
    assert redis is None
    assert said.count("no redis-server") == 1
    assert "REDIS_URL" in said
