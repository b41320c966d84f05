"""Several processes of one gateway on one port, and the parent that keeps them.

Each process is a whole gateway; the kernel spreads new connections over them (SO_REUSEPORT), and
what they share is what replicas share: the database and Redis. The parent serves nothing but its
side port, which speaks for all of them. Does not know what a gateway does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp

from shoal_common.app import die_with_parent
from shoal_gateway.errors import ProcessNotStarted

log = logging.getLogger(__name__)

_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_METRICS_TIMEOUT_S = 2.0
_PAUSE_S, _PAUSE_S_MAX = 0.5, 30.0
# Beyond the time in which a process drains.
_STOP_MARGIN_S = 10.0


@dataclass
class _Child:
    """One place among the processes. `side_address` is empty while nobody is up there."""

    ready_file: Path
    process: asyncio.subprocess.Process | None = None
    side_address: str = ""
    is_up: asyncio.Event = field(default_factory=asyncio.Event)


class Processes:
    """`count` processes of `python -m shoal_gateway`, each with `arguments` and its ready file.

    One that ends is started again, after a pause that grows while it keeps ending.
    """

    def __init__(
        self, count: int, arguments: Sequence[str], drain_timeout_s: float, folder: Path
    ) -> None:
        self._arguments = tuple(arguments)
        self._drain_timeout_s = drain_timeout_s
        self._children = [_Child(folder / f"{index}.json") for index in range(count)]
        self._is_stopping = False

    @property
    def are_up(self) -> bool:
        """Every one of them serves."""
        return all(child.side_address for child in self._children)

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [child.process.pid for child in self._children if child.process is not None]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All serve when the context opens, and have drained when it is left.

        Raises ProcessNotStarted when one does not come up the first time.
        """
        keepers: list[asyncio.Task[None]] = []
        try:
            for child in self._children:
                # One after the other: the first makes tables and files that others only read.
                keeper = asyncio.create_task(self._keep(child))
                keepers.append(keeper)
                await _first_of(keeper, child.is_up)
            yield
        finally:
            self._is_stopping = True
            for child, keeper in zip(self._children, keepers, strict=False):
                if child.process is not None:
                    child.process.terminate()
                else:
                    keeper.cancel()
            await self._drained(keepers)

    async def metrics(self) -> str:
        """What all processes count, each series with the label `process`.

        One that does not answer now is left out.
        """
        timeout = aiohttp.ClientTimeout(total=_METRICS_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            texts = await asyncio.gather(
                *(_metrics_of(session, child.side_address) for child in self._children)
            )
        return joined_metrics(texts)

    async def _keep(self, child: _Child) -> None:
        """Start it again and again. Raises ProcessNotStarted the first time only."""
        pause_s = _PAUSE_S
        while not self._is_stopping:
            code = await self._live(child)
            if self._is_stopping:
                return
            if not child.is_up.is_set():
                raise ProcessNotStarted(code)
            log.warning("process ended", extra={"exit_code": code, "restart_in_s": pause_s})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    async def _live(self, child: _Child) -> int:
        """One life of a process; returns its exit code."""
        child.ready_file.unlink(missing_ok=True)
        arguments = ("-m", "shoal_gateway", *self._arguments, "--ready-file", str(child.ready_file))
        child.process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, preexec_fn=partial(die_with_parent, os.getpid())
        )
        waiting = asyncio.create_task(self._until_ready(child))
        try:
            return await child.process.wait()
        finally:
            waiting.cancel()
            if child.process.returncode is None:
                child.process.kill()
            child.process, child.side_address = None, ""

    async def _until_ready(self, child: _Child) -> None:
        """Note where it serves; end it when that takes too long."""
        assert child.process is not None
        give_up_at = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
        while not child.ready_file.exists():
            if asyncio.get_running_loop().time() > give_up_at:
                child.process.kill()
                return
            await asyncio.sleep(_POLL_S)
        child.side_address = json.loads(child.ready_file.read_bytes())["side"]
        child.is_up.set()

    async def _drained(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        if keepers:
            await asyncio.wait(keepers, timeout=self._drain_timeout_s + _STOP_MARGIN_S)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _first_of(keeper: asyncio.Task[None], is_up: asyncio.Event) -> None:
    """Wait for a child to be up. Raises what its keeper does when that ends instead."""
    up = asyncio.create_task(is_up.wait())
    try:
        await asyncio.wait((keeper, up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
    if keeper.done():
        keeper.result()


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold a port for processes that share it; 0 takes a free one. Raises OSError.

    The socket here never listens, so no connection comes to it.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
        bound: int = holder.getsockname()[1]
        yield bound


async def _metrics_of(session: aiohttp.ClientSession, side_address: str) -> str:
    if not side_address:
        return ""
    try:
        async with session.get(f"http://{side_address}/metrics") as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        log.warning("process does not say what it counts", extra={"side_address": side_address})
        return ""


def joined_metrics(texts: Sequence[str]) -> str:
    """Prometheus's text of each process as one: families together, `process` by position."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for index, text in enumerate(texts):
        family = ""
        is_known = False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                is_known = family in heads
                heads.setdefault(family, [])
                samples.setdefault(family, [])
            if not line.startswith("#"):
                samples[family].append(_labelled(line, index))
            elif not is_known:
                heads[family].append(line)
    lines = [line for name, head in heads.items() for line in (*head, *samples[name])]
    return "".join(f"{line}\n" for line in lines)


def _labelled(sample: str, index: int) -> str:
    # A name holds neither brace nor space, so the first of them ends it.
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{process="{index}",{rest}'
    name, _, rest = sample.partition(" ")
    return f'{name}{{process="{index}"}} {rest}'
