"""Which Redis a fleet gets, and how a start fails."""

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from shoal_cli import up
from shoal_cli.errors import StartFailed
from shoal_cli.fleet import RedisPlan, UpOptions
from shoal_cli.local_model import LocalModel
from shoal_cli.settings import ServiceOptions
from shoal_cli.terminal import Terminal
from shoal_common.redis_program import find_redis


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the working folder counts."""
    monkeypatch.chdir(tmp_path)


def plan_redis(data_dir: Path, environment: dict[str, str]) -> tuple[RedisPlan, str]:
    """What is planned, and what is said about it."""
    output = io.StringIO()
    options = UpOptions(data_dir, 8800, (LocalModel("m", Path("/m"), 2),))
    terminal = Terminal(Console(file=output, width=200))
    set_already = ServiceOptions(environment, None, data_dir)
    return up.plan_redis(options, set_already, 4, terminal), output.getvalue()


def test_a_fleet_has_a_redis_of_its_own_with_a_kept_password(tmp_path: Path) -> None:
    first, said = plan_redis(tmp_path, {})
    assert first.own is not None
    assert said == ""
    assert (first.own.program, first.own.port) == (find_redis(), 4)
    assert first.router_url == first.gateway_url == first.drafter_url == first.own.url
    assert (tmp_path / "redis_password").stat().st_mode & 0o777 == 0o600
    again, _ = plan_redis(tmp_path, {})
    assert again == first


@pytest.mark.parametrize(
    ("environment", "router_url", "gateway_url", "drafter_url"),
    [
        ({"REDIS_URL": "redis://a"}, "", "", ""),
        ({"SHOAL_GATEWAY_REDIS_URL": "redis://a"}, "redis://a", "", "redis://a"),
        ({"SHOAL_ROUTER_REDIS_URL": "redis://a"}, "", "redis://a", "redis://a"),
        ({"REDIS_URL": "redis://a", "SHOAL_ROUTER_REDIS_URL": "redis://b"}, "", "", ""),
    ],
)
def test_a_fleet_that_is_given_a_redis_starts_none_and_shares_it(
    tmp_path: Path,
    environment: dict[str, str],
    router_url: str,
    gateway_url: str,
    drafter_url: str,
) -> None:
    planned = RedisPlan(None, router_url, gateway_url, drafter_url)
    assert plan_redis(tmp_path, environment) == (planned, "")


def test_a_redis_for_kept_answers_alone_is_not_shared(tmp_path: Path) -> None:
    planned, _ = plan_redis(tmp_path, {"SHOAL_ENTROPY_DRAFTER_REDIS_URL": "redis://cache"})
    assert planned.own is not None
    assert planned.router_url == planned.gateway_url == planned.own.url
    assert planned.drafter_url == ""


def test_without_a_program_the_fleet_says_once_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "find_redis", lambda: None)
    planned, said = plan_redis(tmp_path, {})
    assert planned == RedisPlan()
    assert said.count("no redis-server") == 1
    assert "REDIS_URL" in said


async def test_what_fails_ends_the_others_and_comes_through() -> None:
    is_ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_ended.set()

    async def fail() -> None:
        raise StartFailed("m", "no room")

    with pytest.raises(StartFailed, match="no room"):
        await up._together([forever(), fail()])
    assert is_ended.is_set()
