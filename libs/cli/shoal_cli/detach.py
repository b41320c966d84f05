"""A fleet in the background: `shoal up --detach` and `shoal down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from shoal_cli import pids
from shoal_cli.errors import AlreadyRunning, CliError, NotRunning, StartFailed
from shoal_cli.fleet import UpOptions
from shoal_cli.settings import CliSettings
from shoal_cli.terminal import READY_TITLE

LOG_FILE = "up.log"
_POLL_S = 0.1
_READY_TIMEOUT_S = 1200.0
_STOP_TIMEOUT_S = 120.0
ERROR_MARK = "error: "
"""What the message of a command that failed starts with."""


def start(
    options: UpOptions, argv: Sequence[str], settings: CliSettings, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run `shoal <argv>` in its own session; returns the fleet's state once it is ready.

    `tell` gets the lines the fleet logs until then, but for the error that ends it.

    Raises AlreadyRunning or DataDirUnusable before anything starts, StartFailed with the error.
    """
    owner = pids.read_owner(options.data_dir)
    if owner is not None:
        raise AlreadyRunning(owner.pid, owner.url, options.data_dir)
    pids.make_private(options.data_dir)
    state_file = options.state_file
    state_file.unlink(missing_ok=True)
    log_file = options.data_dir / LOG_FILE
    log_file.unlink(missing_ok=True)
    with os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shoal_cli", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(settings.environment),
            start_new_session=True,
        )
    try:
        with log_file.open(errors="replace") as said:
            state = _wait_ready(process, state_file, _Echo(said, tell), log_file)
        process.returncode = 0  # It outlives this process on purpose: Popen need not warn of it.
        return state
    except BaseException:  # Ctrl-C while it starts means: do not start.
        if process.poll() is None:
            process.terminate()
            process.wait(_STOP_TIMEOUT_S)
        raise


def _wait_ready(
    process: subprocess.Popen[bytes], state_file: Path, echo: _Echo, log_file: Path
) -> dict[str, Any]:
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while (state := read_state(state_file)) is None:
        has_ended = process.poll() is not None
        echo.forward()
        if has_ended:
            raise StartFailed("the fleet", f"see {log_file}", echo.error_lines)
        if time.monotonic() >= deadline_s:
            raise StartFailed(
                "the fleet", f"not ready within {_READY_TIMEOUT_S:g} s, see {log_file}"
            )
        time.sleep(_POLL_S)
    echo.forward()  # What it said last, before it noted that it is ready.
    return state


class _Echo:
    """Reads a log as it grows: lines go to `tell`, an `error:` and what follows it are kept.

    The panel that ends a start is for those who stay.
    """

    def __init__(self, said: TextIO, tell: Callable[[str], None]) -> None:
        self._said = said
        self._tell = tell
        self._rest = ""
        self._is_ready = False
        self.error_lines: list[str] = []

    def forward(self) -> None:
        """Pass on the whole lines that came since the last call."""
        *lines, self._rest = (self._rest + self._said.read()).split("\n")
        for line in lines:
            self._is_ready = self._is_ready or READY_TITLE in line
            if self.error_lines or line.startswith(ERROR_MARK):
                self.error_lines.append(line)
            elif line and not self._is_ready:
                self._tell(line)


def read_state(state_file: Path) -> dict[str, Any] | None:
    """What a ready fleet says of itself (url, models, key_file); None when it is not ready."""
    try:
        state = json.loads(state_file.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def stop(data_dir: Path) -> int:
    """Stop the fleet of `data_dir` and wait for its end; returns the supervisor's process id.

    Raises NotRunning, or CliError when it does not end.
    """
    owner = pids.read_owner(data_dir)
    if owner is None:
        raise NotRunning(data_dir)
    os.kill(owner.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    while owner.is_alive:
        if time.monotonic() >= deadline_s:
            raise CliError(
                f"process {owner.pid} did not stop within {_STOP_TIMEOUT_S:g} s: "
                f"end it with `kill -9 {owner.pid}`; its services end with it"
            )
        time.sleep(_POLL_S)
    return owner.pid
