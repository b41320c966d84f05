"""A whole fleet of real processes for tests: started by the command people use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
READY_LINE = "Shoal is ready"
READY_TIMEOUT_S = 120.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Fleet:
    """`shoal up` in a folder of its own, from ready to stopped.

    models: names of demo models, or folders of others. shards: first and last layer of each worker,
    as `--shards` takes them, in place of `workers` and `split`. auto: the router decides who holds
    what. drafter: the one of `models` that drafts; True for embeddings alone.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        models: Sequence[str | Path],
        workers: int,
        split: bool,
        shards: str = "",
        auto: bool = False,
        drafter: str | bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.lines: list[str] = []
        arguments = ["up", "--data-dir", str(data_dir), "--port", str(self.port)]
        arguments += ["--shards", shards] if shards else ["--workers", str(workers)]
        arguments += ["--split"] if split else []
        arguments += ["--auto"] if auto else []
        if isinstance(drafter, str):
            arguments += ["--drafter", drafter]
        elif not drafter:
            arguments.append("--no-drafter")
        for model in models:
            arguments += ["--model", str(MODELS / model)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shoal_cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Raises AssertionError with the fleet's log when it does not come up."""
        assert self._is_ready.wait(timeout_s), self.log()
        assert any(READY_LINE in line for line in self.lines), self.log()

    def log(self) -> str:
        return "".join(self.lines[-200:])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.data_dir / "api_key").read_text().strip()

    @property
    def token(self) -> str:
        return (self.data_dir / "fleet_token").read_text().strip()

    def address(self, service: str) -> str:
        """gRPC address of a service, from its ready file."""
        path = self.data_dir / "run" / f"{service}.ready.json"
        address: str = json.loads(path.read_text())["grpc"]
        return address

    def service(self, name: str) -> psutil.Process:
        """The process of a service now, from its ready file."""
        path = self.data_dir / "run" / f"{name}.ready.json"
        return psutil.Process(json.loads(path.read_text())["pid"])

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine_of(self, worker: str) -> psutil.Process:
        """The engine child of `worker-1` and so on."""
        for process in self.processes():
            line = process.cmdline()
            if any(f"/{worker}/" in part for part in line) and "engine" in " ".join(line):
                return process
        raise AssertionError(f"no engine of {worker}: {[p.cmdline() for p in self.processes()]}")

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join(5)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.lines.append(line)
                if READY_LINE in line:
                    self._is_ready.set()
        self._is_ready.set()


@contextmanager
def fleet_up(
    data_dir: Path,
    *,
    models: Sequence[str | Path],
    workers: int = 1,
    split: bool = False,
    shards: str = "",
    auto: bool = False,
    drafter: str | bool = False,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Fleet]:
    """A fleet from ready to stopped; it must stop in good order."""
    fleet = Fleet(
        data_dir,
        models=models,
        workers=workers,
        split=split,
        shards=shards,
        auto=auto,
        drafter=drafter,
        environment=environment,
    )
    try:
        fleet.until_ready(timeout_s)
        yield fleet
    finally:
        code = fleet.stop()
    assert code == 0, fleet.log()
