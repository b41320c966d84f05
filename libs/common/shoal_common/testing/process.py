"""A real server of somebody else's as a process of its own, for tests."""

from __future__ import annotations

import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self


class ServerProcess(ABC):
    """A server with its log in `log_path`. Stop it, or use it as a context manager."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run and wait until it serves; after a `stop` or `kill` on the same port again.

        Raises Unavailable when the program is missing or does not come up.
        """
        assert self._process is None, "already running"
        command = self._command()
        with self._log_path.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self._wait_until_it_serves(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end and wait. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would. Idempotent."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What to run. Raises Unavailable when the program is missing."""

    @abstractmethod
    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        """Raises Unavailable when it does not come up."""

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
