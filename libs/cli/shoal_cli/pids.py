"""Who runs the fleet of a data folder, and which ports are free.

The pid file names the supervisor with its start time, so that a number reused by the system after
a crash is not taken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from shoal_cli.errors import AlreadyRunning, DataDirUnusable, PortBusy

PID_FILE = "shoal.pid"
_START_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Owner:
    """The supervisor of a data folder. `started_at` is its start in seconds since 1970."""

    pid: int
    started_at: float
    url: str

    @property
    def port(self) -> int | None:
        """The port in `url`."""
        with contextlib.suppress(ValueError):
            return urlsplit(self.url).port
        return None

    @property
    def is_alive(self) -> bool:
        """True when that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return abs(process.create_time() - self.started_at) < _START_TOLERANCE_S
        except psutil.Error:
            return False


def read_owner(data_dir: Path) -> Owner | None:
    """The living supervisor of `data_dir`; None when there is none or the file is stale."""
    try:
        stored = json.loads((data_dir / PID_FILE).read_bytes())
        owner = Owner(int(stored["pid"]), float(stored["started_at"]), str(stored["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner if owner.is_alive else None


def claim(data_dir: Path, url: str) -> None:
    """Make this process the owner of `data_dir`, replacing a stale file.

    Raises AlreadyRunning, DataDirUnusable. Of two that claim at once, one wins.
    """
    make_private(data_dir)
    path = data_dir / PID_FILE
    if (owner := read_owner(data_dir)) is not None:
        raise AlreadyRunning(owner.pid, owner.url, data_dir)
    own = Owner(os.getpid(), psutil.Process().create_time(), url)
    staged = data_dir / f"{PID_FILE}.{own.pid}"
    staged.write_text(json.dumps(asdict(own)))
    path.unlink(missing_ok=True)
    try:
        os.link(staged, path)  # Atomic, and fails where another was faster.
    except FileExistsError as err:
        winner = read_owner(data_dir)
        raise AlreadyRunning(winner.pid if winner else 0, url, data_dir) from err
    finally:
        staged.unlink(missing_ok=True)


def make_private(data_dir: Path) -> None:
    """Make the folder for its owner alone, where there is none. Raises DataDirUnusable."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise DataDirUnusable(data_dir, err.strerror or str(err)) from err
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise DataDirUnusable(data_dir, "no permission to write")


def release(data_dir: Path) -> None:
    """Remove the pid file if it is this process's."""
    owner = read_owner(data_dir)
    if owner is not None and owner.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            (data_dir / PID_FILE).unlink()


def check_port(host: str, port: int) -> None:
    """Raises PortBusy when nothing of ours could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as err:
            raise PortBusy(host, port) from err


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def check_free(data_dir: Path, host: str, port: int) -> None:
    """Raises AlreadyRunning or PortBusy when a fleet could not start."""
    if (owner := read_owner(data_dir)) is not None:
        raise AlreadyRunning(owner.pid, owner.url, data_dir)
    check_port(host, port)
