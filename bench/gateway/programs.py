"""Other processes from start to stop.

Owns them: none outlives who started it, its output is in a file, and its last words are part of
the error when it does not come up.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.fleets import ROOT
from bench.gateway.upstream import URL_MARK
from shoal_common.app import die_with_parent

_POLL_S = 0.05
_STOP_TIMEOUT_S = 20.0
_LOG_CHARACTERS = 2000


class ProgramFailed(Exception):
    """It ended, or was not ready in time; the text has what it printed last."""


class Program:
    """One process and its children."""

    def __init__(self, argv: Sequence[str], log: Path, settings: Mapping[str, str]) -> None:
        self._log = log
        # `env` adds to the environment, and takes away what starts with a minus.
        names = [f"--unset={name}" for name, value in settings.items() if not value]
        names += [f"{name}={value}" for name, value in settings.items() if value]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["env", *names, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                preexec_fn=die_with_parent,
            )

    def until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait. Raises ProgramFailed."""
        give_up_at = time.monotonic() + timeout_s
        while not is_ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > give_up_at:
                what = f"ended with {code}" if code is not None else "was not ready in time"
                tail = self._log.read_text(errors="replace")[-_LOG_CHARACTERS:]
                raise ProgramFailed(f"{self._process.args!r} {what}: {tail}")
            time.sleep(_POLL_S)

    def processes(self) -> list[psutil.Process]:
        """It and everything it started."""
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def stop(self) -> None:
        """Ask it to end, and kill what is left. Idempotent."""
        if self._process.poll() is None:
            left = self.processes()
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            _, alive = psutil.wait_procs(left, timeout=1.0)
            for process in alive:
                process.kill()
        self._process.wait()


@contextmanager
def helper(module: str, *arguments: str) -> Iterator[str]:
    """A module of ours that prints where it serves, and serves until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=die_with_parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith(URL_MARK):
            raise ProgramFailed(f"{module} ended before it served: {line!r}")
        yield line.removeprefix(URL_MARK).strip()
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Something listens on that port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
