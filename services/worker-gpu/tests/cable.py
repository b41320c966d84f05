"""A TCP wire in front of a server that a test may freeze, thaw or cut.

Frozen, it is what a stopped process looks like to everybody else: connections stand and are taken,
and nothing is ever said on them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

_PIECE_BYTES = 1 << 16


class Cable:
    """Listens on a free port and forwards to `target`, `host:port`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._ends, return_exceptions=True)

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def freeze(self) -> None:
        self._flows.clear()

    def thaw(self) -> None:
        """What was said meanwhile arrives now."""
        self._flows.set()

    def cut(self) -> None:
        """Break all connections, for ever."""
        self._is_cut = True
        for end in self._ends:
            end.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        with suppress(OSError, asyncio.CancelledError):
            if not self._is_cut:
                await self._join(reader, writer)
        writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE_BYTES):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
