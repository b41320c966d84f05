"""The command line as a person types it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from shoal_cli import pids
from shoal_cli.errors import AlreadyRunning, ModelFolderMissing, NotRunning, PortBusy
from shoal_cli.main import app

HEAVY = ("torch", "grpc", "aiohttp", "transformers", "pydantic")


def failure(*argv: str) -> BaseException:
    result = CliRunner().invoke(app, list(argv))
    assert result.exit_code == 1, result.output
    assert result.exception is not None
    return result.exception


def test_help_names_every_command_and_hides_the_alias() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    commands = ("up", "down", "status", "models", "chat", "bench", "test-split", "doctor")
    assert all(f" {name} " in output for name in commands)
    assert " run " not in output


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, shoal_cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_version() -> None:
    assert CliRunner().invoke(app, ["version"]).output.startswith("shoal 0.")


@pytest.mark.parametrize("command", ["up", "run"])
def test_up_without_a_model_folder(tmp_path: Path, command: str) -> None:
    err = failure(command, "--data-dir", str(tmp_path), "--model", str(tmp_path / "none"))
    assert isinstance(err, ModelFolderMissing)


@pytest.mark.parametrize("extra", [[], ["--detach"]])
def test_up_on_a_busy_port(tmp_path: Path, busy_port: int, extra: list[str]) -> None:
    err = failure("up", "--data-dir", str(tmp_path), "--port", str(busy_port), *extra)
    assert isinstance(err, PortBusy)
    assert str(busy_port) in str(err)
    assert pids.read_owner(tmp_path) is None


@pytest.mark.parametrize("extra", [[], ["--detach"]])
def test_up_twice_says_that_it_runs(tmp_path: Path, extra: list[str]) -> None:
    pids.claim(tmp_path, "http://127.0.0.1:1")
    assert isinstance(failure("up", "--data-dir", str(tmp_path), *extra), AlreadyRunning)


@pytest.mark.parametrize("command", ["down", "status"])
def test_commands_without_a_fleet(tmp_path: Path, command: str) -> None:
    assert isinstance(failure(command, "--data-dir", str(tmp_path)), NotRunning)


def test_errors_are_one_line_on_standard_error(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "shoal_cli", "down", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: no fleet is running")
    assert "Traceback" not in run.stderr


def test_down_stops_the_supervisor(tmp_path: Path) -> None:
    code = (
        "import signal,sys,pathlib;from shoal_cli import pids;"
        f"pids.claim(pathlib.Path({str(tmp_path)!r}),'u');print('up',flush=True);signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            result = CliRunner().invoke(app, ["down", "--data-dir", str(tmp_path)])
        finally:
            process.kill()
        assert process.wait() == -15
    assert result.output == f"stopped (process {process.pid})\n"


def test_status_lists_processes(tmp_path: Path) -> None:
    pids.claim(tmp_path, "http://127.0.0.1:1")
    (tmp_path / "run").mkdir()
    ready = f'{{"pid": {os.getpid()}, "grpc": "127.0.0.1:7"}}'
    (tmp_path / "run" / "worker-1.ready.json").write_text(ready)
    gone = max(psutil.pids()) + 10_000_000
    (tmp_path / "run" / "worker-2.ready.json").write_text(f'{{"pid": {gone}}}')
    output = CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path)]).output
    assert "worker-1 │ up" in output
    assert "worker-2 │ down" in output


def test_doctor_reports_a_busy_port_and_fails(tmp_path: Path, busy_port: int) -> None:
    argv = ["doctor", "--data-dir", str(tmp_path), "--port", str(busy_port)]
    result = CliRunner().invoke(app, argv)
    assert result.exit_code == 1
    assert f"FAIL  port {busy_port}: in use" in result.output
