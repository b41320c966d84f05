"""A TCP proxy that holds every byte back for a while: a long wire on one machine.

Owns the delay. Does not know what the bytes mean. Bytes keep their order, a delay adds to every
piece but does not limit how many pieces are on the way, as on a long line with room to spare.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

_PIECE_BYTES = 1 << 16
# Pieces on the way in one direction: 64 MiB, more than any frame here.
_PIECES_MAX = 1024

Piece = tuple[float, bytes]


class DelayProxy:
    """Listens on a loopback port and forwards to `target`, each way `delay_s` later.

    `delay_s` may be changed at any time, for what comes from then on; what is on the way keeps its
    order. An end of one direction travels like a byte: it arrives behind everything sent before
    it. When either side breaks off, the other is broken off too.
    """

    def __init__(self, target: str, delay_s: float) -> None:
        """target: `host:port`."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.delay_s = delay_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """`host:port` of the listening side, once started."""
        assert self._server is not None, "start() comes first"
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def __aenter__(self) -> DelayProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A caller sees a refused or broken target as an end, as behind any real relay.
        with contextlib.closing(writer), contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(far_writer):
                await self._join((reader, writer), (far_reader, far_writer))

    async def _join(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry both directions until both have ended. Raises OSError when one breaks."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for reader, writer in ((near[0], far[1]), (far[0], near[1])):
                    on_the_way: asyncio.Queue[Piece] = asyncio.Queue(_PIECES_MAX)
                    tasks.create_task(self._take(reader, on_the_way))
                    tasks.create_task(_give(on_the_way, writer))
        except* OSError as errors:
            raise OSError("a side of the proxy broke off") from errors

    async def _take(self, reader: asyncio.StreamReader, on_the_way: asyncio.Queue[Piece]) -> None:
        """Read until the end and note when each piece is due; an empty piece is the end."""
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            data = await reader.read(_PIECE_BYTES)
            await on_the_way.put((loop.time() + self.delay_s, data))


async def _give(on_the_way: asyncio.Queue[Piece], writer: asyncio.StreamWriter) -> None:
    """Write each piece when it is due."""
    loop = asyncio.get_running_loop()
    while True:
        due, data = await on_the_way.get()
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()
