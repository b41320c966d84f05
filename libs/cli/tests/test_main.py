"""The command line as a person types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from shoal_cli import detach, local_model, pids, up
from shoal_cli.errors import AlreadyRunning, ModelMissing, NotRunning, PortBusy
from shoal_cli.fleet import UpOptions
from shoal_cli.main import app

HEAVY = ("torch", "grpc", "aiohttp", "transformers", "pydantic")


def failure(*argv: str) -> BaseException:
    result = CliRunner().invoke(app, list(argv))
    assert result.exit_code == 1, result.output
    assert result.exception is not None
    return result.exception


def test_help_names_every_command_and_hides_the_alias() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    commands = ("up", "down", "status", "plan", "models", "chat", "bench", "test-split", "doctor")
    assert all(f" {name} " in output for name in commands)
    assert " run " not in output


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, shoal_cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_version(asked: str) -> None:
    assert CliRunner().invoke(app, [asked]).output.startswith("shoal 0.")


@pytest.mark.parametrize("command", ["up", "run"])
def test_up_without_a_model(tmp_path: Path, command: str) -> None:
    err = failure(command, "--data-dir", str(tmp_path), "--model", str(tmp_path / "none"))
    assert isinstance(err, ModelMissing)


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


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["down", "--data-dir", "{}/none"], 1, "error: no fleet is running"),
        (["up", "--data-dir", "{}/file"], 1, "error: the data folder"),
        (["up", "--detach", "--data-dir", "{}/file/below"], 1, "error: the data folder"),
        (["up", "--model", "{}/none"], 2, "error: {}/none holds no model"),
        (["test-split", "--stages", "99"], 2, "error: 6 layers cannot be split into 99 parts"),
        (["up", "--config", "{}/none"], 2, "Usage: "),
        (["models", "--url", "localhost:8800"], 2, "Usage: "),
        (["frob"], 2, "Usage: "),
    ],
)
def test_errors_are_short_and_on_standard_error(
    tmp_path: Path, unused_port: int, argv: list[str], status: int, says: str
) -> None:
    (tmp_path / "file").touch()
    command = [one.format(tmp_path) for one in argv]
    if "up" in command:
        command += ["--port", str(unused_port)]
    run = subprocess.run(
        [sys.executable, "-m", "shoal_cli", *command], capture_output=True, text=True, check=False
    )
    assert run.returncode == status
    assert run.stdout == ""
    assert run.stderr.startswith(says.format(tmp_path))
    assert "Traceback" not in run.stderr
    assert "\x1b" not in run.stderr


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
    common = {"address": "127.0.0.1:65535", "restart_count": 0}
    noted = [
        {"name": "nats", "state": "up", "pid": os.getpid(), **common},
        {"name": "shard-store", "state": "up", "pid": max(psutil.pids()) + 10_000_000, **common},
        {"name": "worker-1", "state": "down", "pid": None, **common, "restart_count": 3},
    ]
    (tmp_path / "run" / "processes.json").write_text(json.dumps(noted))
    output = CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path)]).output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    rows = [row for row in rows if row]
    assert [row[:2] for row in rows] == [
        ["nats", "up"],
        ["shard-store", "up"],
        ["worker-1", "down"],
    ]
    assert int(rows[0][4]) > 0
    assert rows[2][2:] == ["-", "127.0.0.1:65535", "0", "3"]
    assert max(len(line) for line in output.splitlines()) <= 80


def test_status_before_the_first_process(tmp_path: Path) -> None:
    pids.claim(tmp_path, "http://127.0.0.1:1")
    result = CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0


def test_doctor_looks_at_the_port_of_the_running_fleet(tmp_path: Path, busy_port: int) -> None:
    pids.claim(tmp_path, f"http://127.0.0.1:{busy_port}")
    output = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)]).output
    assert f"ok    port {busy_port}: the fleet answers" in output


def test_doctor_reports_a_busy_port_and_fails(tmp_path: Path, busy_port: int) -> None:
    argv = ["doctor", "--data-dir", str(tmp_path), "--port", str(busy_port)]
    result = CliRunner().invoke(app, argv)
    assert result.exit_code == 1
    assert f"FAIL  port {busy_port}: in use" in result.output


@pytest.mark.parametrize(
    "asked",
    [
        [],
        ["--no-drafter"],
        ["--model", "{models}/drafter", "--drafter", "{models}/heavyweight", "-v"],
        ["--model", "{models}/heavyweight", "--split", "--workers", "3"],
    ],
)
def test_a_fleet_in_the_background_is_the_one_that_was_asked_for(
    tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    seen: list[UpOptions] = []

    async def see(options: UpOptions, *_: object) -> None:
        seen.append(options)

    def start(options: UpOptions, argv: list[str], *_: object) -> dict[str, object]:
        seen.append(options)
        assert CliRunner().invoke(app, argv).exit_code == 0
        return {"url": "", "key_file": "", "models": [], "cascade": "cascade: both"}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(up, "run", see)
    monkeypatch.setattr(detach, "start", start)
    models = local_model.shipped_model().parent
    argv = ["up", "--detach", "--data-dir", str(tmp_path), "--port", str(unused_port)]
    result = CliRunner().invoke(app, [*argv, *(one.format(models=models) for one in asked)])
    assert result.exit_code == 0, result.output
    assert "cascade: both" in result.output
    assert len(seen) == 2
    assert seen[0] == seen[1]
