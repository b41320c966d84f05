"""A detached fleet says how far it is, and why it did not start."""

from pathlib import Path

import pytest

from shoal_cli import detach
from shoal_cli.errors import StartFailed
from shoal_cli.fleet import UpOptions
from shoal_cli.settings import load

FAKE_CLI = """
import os, pathlib, sys, time
data_dir, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
print("start nats: done", flush=True)
if mode == "fail":
    print("error: model refused:\\n  pickle", file=sys.stderr)
    sys.exit(1)
(data_dir / "run").mkdir()
staged = data_dir / "run" / "staged"
staged.write_text('{"url": "u"}')
print("--- Shoal is ready ---\\nstop: Ctrl-C", flush=True)
staged.rename(data_dir / "run" / "fleet.json")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where `python -m shoal_cli` is a stand-in for the command."""
    package = tmp_path / "stand-in" / "shoal_cli"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_CLI)
    return {"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin"}


def start(folder: Path, mode: str, environment: dict[str, str], told: list[str]) -> dict[str, str]:
    options = UpOptions(folder, 1, ())
    return detach.start(options, [str(folder), mode], load(folder, environment), told.append)


def test_returns_the_state_of_a_ready_fleet(tmp_path: Path, environment: dict[str, str]) -> None:
    assert start(tmp_path / "data", "ready", environment, []) == {"url": "u"}


def test_all_that_was_said_before_the_panel_is_told(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    told: list[str] = []
    start(tmp_path / "data", "ready", environment, told)
    assert told == ["start nats: done"]


def test_failure_carries_the_whole_error_once(tmp_path: Path, environment: dict[str, str]) -> None:
    told: list[str] = []
    with pytest.raises(StartFailed, match=r"up\.log(.|\n)*error: model refused:\n.*pickle"):
        start(tmp_path / "data", "fail", environment, told)
    assert told == ["start nats: done"]


def test_log_and_folder_are_for_the_owner_alone(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    start(tmp_path / "data", "ready", environment, [])
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "data", tmp_path / "data/up.log")]
    assert modes == [0o700, 0o600]
