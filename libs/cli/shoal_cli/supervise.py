"""Keeps a list of processes alive: starts them in order behind health gates, restarts one that
dies, forwards what they print, stops them in reverse order.

Knows nothing of what the processes are. A child is killed by the kernel when the supervisor dies
(Linux), so `kill -9` of the supervisor leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from shoal_cli.errors import StartFailed
from shoal_common.clock import Clock

log = logging.getLogger(__name__)

LineSink = Callable[[str, str], None]
"""Called with the process's name and one line it printed."""

_POLL_S = 0.05
_LINE_CHARACTERS_MAX = 8192
_LINES_KEPT = 12
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ProcessSpec:
    """One process to keep alive.

    `settings` is written over the inherited environment. The process is ready once it wrote
    `ready_file` (a JSON object) or, with `ready_port`, once that loopback port accepts a
    connection; with neither, once it was started. Lines that hold `quiet_mark` are kept for the
    report of a failure but not forwarded. Neighbours in the order of start that share a `group`
    are stopped together.
    """

    name: str
    argv: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    ready_file: Path | None = None
    ready_port: int | None = None
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    quiet_mark: str = ""
    group: str = ""


class ChildState(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    UP = "up"
    WAITING = "down"
    STOPPED = "stopped"


@dataclass
class Backoff:
    """How long to wait before a restart: doubles, and starts again after a healthy while."""

    first_s: float = 0.5
    longest_s: float = 30.0
    healthy_after_s: float = 60.0
    _next_s: float = 0.0

    def after(self, lived_s: float) -> float:
        """The pause after a process that was healthy for `lived_s` seconds died."""
        if lived_s >= self.healthy_after_s or self._next_s == 0.0:
            self._next_s = self.first_s
        pause_s = self._next_s
        self._next_s = min(self._next_s * 2, self.longest_s)
        return pause_s


class Supervisor:
    """Owns processes, in the order in which they were started."""

    def __init__(
        self,
        clock: Clock,
        sink: LineSink,
        environment: Mapping[str, str],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called whenever a child's `state` changed."""
        self._clock = clock
        self._sink = sink
        self._environment = dict(environment)
        self._on_change = on_change
        self._children: list[Child] = []

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes, first started first."""
        return tuple(self._children)

    async def start(self, spec: ProcessSpec) -> dict[str, Any]:
        """Start one process and wait for its gate; returns its ready file's content.

        From then on it is restarted whenever it ends. Raises StartFailed, with nothing of it left
        running, when it ends or its time is up before it is ready.
        """
        child = Child(spec, self._clock, self._sink, self._environment, self._on_change)
        self._children.append(child)
        return await child.start()

    def last_lines(self, name: str, count: int) -> tuple[str, ...]:
        """The last `count` lines that the process called `name` printed; fewer if it said less."""
        said = [line for child in self._children if child.spec.name == name for line in child.said]
        return tuple(said[-count:])

    def kill(self) -> None:
        """SIGKILL to every process, for one who will not wait; `stop` is still to be awaited."""
        for child in self._children:
            child.kill()

    async def stop(self) -> None:
        """Stop everything, last started first, a group at once. Idempotent."""
        while self._children:
            last = self._children[-1]
            together = [last]
            if last.spec.group:
                together = [one for one in self._children if one.spec.group == last.spec.group]
            await asyncio.gather(*(child.stop() for child in together))
            for child in together:
                self._children.remove(child)


class Child:
    """One process over its restarts. `pid` is None while it is down; `ready` is what its ready
    file said last."""

    def __init__(
        self,
        spec: ProcessSpec,
        clock: Clock,
        sink: LineSink,
        environment: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.restart_count = 0
        self.state = ChildState.STARTING
        self.ready: dict[str, Any] = {}
        self._on_change = on_change
        self._clock = clock
        self._sink = sink
        self._environment = {**environment, **spec.settings}
        self._backoff = Backoff()
        self._last_lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._process: asyncio.subprocess.Process | None = None
        self._forwarder: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """Its last lines since it was started."""
        return tuple(self._last_lines)

    def kill(self) -> None:
        """SIGKILL to the whole group, if it runs; it is not started again."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> dict[str, Any]:
        """Start for the first time. Raises StartFailed."""
        try:
            ready = await self._bring_up()
        except BaseException:
            await self._end_process()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
        return ready

    async def stop(self) -> None:
        """SIGTERM, wait `stop_timeout_s`, SIGKILL to the whole group. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        await self._end_process()
        self._enter(ChildState.STOPPED)

    def _enter(self, state: ChildState) -> None:
        self.state = state
        self._on_change()

    async def _keep(self) -> None:
        while True:
            ready_s = self._clock.monotonic()
            assert self._process is not None
            status = await self._process.wait()
            await self._end_process()  # What it left in its group holds ports and memory.
            await self._restart(f"ended with {_status_text(status)}", ready_s)

    async def _restart(self, why: str, ready_s: float) -> None:
        """Try until the process is ready again; each failure waits longer."""
        lived_s = self._clock.monotonic() - ready_s
        while True:
            pause_s = self._backoff.after(lived_s)
            self._enter(ChildState.WAITING)
            self._sink(self.spec.name, f"{why}; starts again in {pause_s:g} s")
            await self._clock.sleep(pause_s)
            self.restart_count += 1
            try:
                await self._bring_up()
            except StartFailed as err:
                why, lived_s = str(err).splitlines()[0], 0.0
                await self._end_process()
            else:
                self._sink(self.spec.name, f"is up again (restart {self.restart_count})")
                return

    async def _bring_up(self) -> dict[str, Any]:
        spec = self.spec
        if spec.ready_file is not None:
            spec.ready_file.unlink(missing_ok=True)
        self._last_lines.clear()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                process_group=0,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as err:
            raise StartFailed(spec.name, f"{spec.argv[0]}: {err.strerror}") from err
        assert self._process.stdout is not None
        self._forwarder = asyncio.create_task(self._forward(self._process.stdout))
        self._enter(ChildState.STARTING)
        self.ready = await self._wait_ready()
        self._enter(ChildState.UP)
        return self.ready

    async def _wait_ready(self) -> dict[str, Any]:
        process, spec = self._process, self.spec
        assert process is not None
        exited = asyncio.ensure_future(process.wait())
        deadline_s = self._clock.monotonic() + spec.ready_timeout_s
        try:
            while True:
                if process.returncode is not None:
                    await self._forwarded()
                    detail = f"it ended with {_status_text(process.returncode)}"
                    raise StartFailed(spec.name, detail, tuple(self._last_lines))
                if (ready := await _ready_state(spec)) is not None:
                    return ready
                if self._clock.monotonic() >= deadline_s:
                    detail = f"it was not ready within {spec.ready_timeout_s:g} s"
                    raise StartFailed(spec.name, detail, tuple(self._last_lines))
                await asyncio.wait([exited], timeout=_POLL_S)
        finally:
            exited.cancel()

    async def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self.spec.stop_timeout_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await self._forwarded()
        self._process = None

    async def _forwarded(self) -> None:
        """Let the forwarder read what is left in the pipe, for a bounded while."""
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is None:
            return
        await asyncio.wait([forwarder], timeout=1.0)
        forwarder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await forwarder

    async def _forward(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line)
            if len(rest) > _LINE_CHARACTERS_MAX:
                self._emit(rest)
                rest = b""
        if rest:
            self._emit(rest)

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()[:_LINE_CHARACTERS_MAX]
        if text:
            self._last_lines.append(text)
            if not self.spec.quiet_mark or self.spec.quiet_mark not in text:
                self._sink(self.spec.name, text)


async def _ready_state(spec: ProcessSpec) -> dict[str, Any] | None:
    """The ready file's content, {} where there is none to wait for, None when not ready."""
    if spec.ready_port is not None and not await _accepts(spec.ready_port):
        return None
    if spec.ready_file is None:
        return {}
    try:
        state = json.loads(spec.ready_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) else None


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _status_text(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _die_with(parent_pid: int) -> Callable[[], None] | None:
    """What a fresh child runs so that the kernel kills it with its parent; None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: the child may only make calls that take no locks.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # The parent died before the signal was armed.
            os._exit(1)

    return arm
