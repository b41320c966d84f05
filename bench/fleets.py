"""Whole fleets of real processes, several beside each other, for benchmarks.

Owns starting, finding and stopping them. Does not know what is measured on them.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.figures import Skipped
from shoal_worker_gpu.settings import Settings as WorkerSettings

ROOT = Path(__file__).resolve().parents[1]
_PREFIX = "SHOAL_WORKER_GPU_"
_POLL_S = 0.1
_READY_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 60.0
_LOG_CHARACTERS = 3000


class FleetFailed(Exception):
    """A fleet did not come up, or not in time; a note holds its log."""


@dataclass(frozen=True)
class FleetPlan:
    """What to start.

    model: a Hugging Face folder. workers: each holds an equal part of the layers. threads: torch
    threads of each worker. settings: of the workers, by the field's name in upper case.
    """

    model: Path
    workers: int = 1
    threads: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises Skipped when this build's worker lacks one of the settings."""
        known = WorkerSettings.model_fields
        missing = [name for name in self.settings if name.lower() not in known]
        if missing:
            raise Skipped(f"the worker has no setting {', '.join(missing)}")


class BenchFleet:
    """One fleet from start to stop, its data in a folder of its own."""

    def __init__(self, plan: FleetPlan, data_dir: Path) -> None:
        self.plan = plan
        self.data_dir = data_dir
        self.port = _free_port()
        self._log = data_dir / "fleet.log"
        arguments = ["--data-dir", str(data_dir), "--port", str(self.port)]
        arguments += ["--model", str(plan.model)]
        arguments += ["--workers", str(plan.workers), "--threads", str(plan.threads)]
        own = {"OMP_NUM_THREADS": str(plan.threads)}
        own |= {_PREFIX + name: value for name, value in plan.settings.items()}
        for name, value in own.items():
            arguments += ["--set", f"{name}={value}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.bring_up", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def until_ready(self) -> None:
        """Wait until the model answers. Raises FleetFailed."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not (self.data_dir / "run" / "fleet.json").exists():
            if self._process.poll() is not None:
                raise FleetFailed("the fleet ended while it started")
            if time.monotonic() > deadline:
                raise FleetFailed(f"not ready within {_READY_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)

    def log(self) -> str:
        """The end of what its processes printed."""
        return self._log.read_text(errors="replace")[-_LOG_CHARACTERS:]

    @property
    def model(self) -> str:
        """Name under which the model is served."""
        return self.plan.model.resolve().name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.data_dir / "api_key").read_text().strip()

    @property
    def token(self) -> str:
        return (self.data_dir / "fleet_token").read_text().strip()

    @property
    def router_address(self) -> str:
        ready = json.loads((self.data_dir / "run" / "router.ready.json").read_text())
        address: str = ready["grpc"]
        return address

    def processes(self) -> list[psutil.Process]:
        """Everything the fleet runs, the supervisor excepted."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def engines(self) -> list[psutil.Process]:
        """The engine children, which hold weights and KV."""
        return [p for p in self.processes() if any("engine_child" in part for part in p.cmdline())]

    def stop(self) -> None:
        """As Ctrl-C does; killed when that takes too long. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()


@contextmanager
def fleets(plans: Mapping[str, FleetPlan]) -> Iterator[dict[str, BenchFleet]]:
    """Start one fleet per plan, in order, and stop them all at the end.

    One after the other: loading takes memory of its own. Raises Skipped, with nothing started, and
    FleetFailed.
    """
    for plan in plans.values():
        plan.check()
    started: dict[str, BenchFleet] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        try:
            for name, plan in plans.items():
                data_dir = Path(folder) / name
                data_dir.mkdir()
                started[name] = BenchFleet(plan, data_dir)
                started[name].until_ready()
            yield started
        except Exception as err:
            # Whatever went wrong, the processes' last words are gone with the folder.
            for name, fleet in started.items():
                err.add_note(f"the fleet '{name}' said last:\n{fleet.log()}")
            raise
        finally:
            for fleet in started.values():
                fleet.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
