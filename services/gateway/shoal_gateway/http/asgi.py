"""An ASGI application answers one aiohttp request.

Speaks HTTP of ASGI 3.0 (specification 2.3): no WebSocket, no lifespan, no extensions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from shoal_gateway.http.middleware import FAILED

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
# Seconds an application may take to end when its client has gone.
LEAVE_TIMEOUT_S = 10.0
# They belong to one connection, and aiohttp sets them as this one needs.
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding"})


async def answer(
    app: AsgiApp,
    request: web.Request,
    body: bytes,
    is_over: asyncio.Event,
    extra: Mapping[str, Any],
    leave_timeout_s: float = LEAVE_TIMEOUT_S,
) -> web.StreamResponse:
    """Run `app` for `request`, whose body has been read; `extra` is added to its scope.

    A write waits while the client reads slowly. `is_over` is set once nobody listens any more:
    the response is whole, or the client has gone. The application hears of it and ends by itself,
    so that what it does after its last byte is not cut off; it is cancelled if it does not.
    Raises what the application raises before its response begins; later the connection is cut,
    as the client has no other way to know.
    """
    exchange = _Exchange(request, body, is_over)
    running = asyncio.ensure_future(app(_scope(request, extra), exchange.receive, exchange.send))
    try:
        await asyncio.wait((running,))
    except asyncio.CancelledError:
        is_over.set()
        await asyncio.wait((running,), timeout=leave_timeout_s)
        raise
    finally:
        is_over.set()
        if not running.done():
            running.cancel()
            await asyncio.wait((running,))
        error = None if running.cancelled() else running.exception()
    if error is not None:
        if exchange.response is None:
            raise error
        log.error("response failed", exc_info=error)
        exchange.cut()
    return exchange.finished()


def _scope(request: web.Request, extra: Mapping[str, Any]) -> dict[str, Any]:
    host, _, port = request.host.rpartition(":")
    raw_path, _, query = request.rel_url.raw_path_qs.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": (request.remote, 0) if request.remote else None,
        "server": (host, int(port)) if port.isdigit() else (request.host, None),
    }
    return scope | dict(extra)


class _Exchange:
    """One request and its response. `response` is None until the first byte is due."""

    def __init__(self, request: web.Request, body: bytes, is_over: asyncio.Event) -> None:
        self._request = request
        self._body: bytes | None = body
        self._start: Message | None = None
        self._is_over = is_over
        self._is_lost = False
        self.response: web.StreamResponse | None = None

    async def receive(self) -> Message:
        """The whole body, then the end of the exchange."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """After the client has gone it does nothing, as the specification asks."""
        if message["type"] == "http.response.start":
            assert self._start is None, "a response starts once"
            self._start = message
            return
        assert message["type"] == "http.response.body", message["type"]
        assert self._start is not None, "a body needs a start"
        if self._is_over.is_set():
            return
        try:
            await self._write(message.get("body", b""), bool(message.get("more_body", False)))
        except ConnectionError:
            self._is_lost = True
            self._is_over.set()

    async def _write(self, data: bytes, is_more: bool) -> None:
        if self.response is None:
            assert self._start is not None
            self.response = _response(self._start)
            await self.response.prepare(self._request)
        if data:
            await self.response.write(data)
        if not is_more:
            await self.response.write_eof()
            self._is_over.set()

    def cut(self) -> None:
        """End the connection in the middle of the response."""
        self._request[FAILED] = True
        self._is_lost = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def finished(self) -> web.StreamResponse:
        """Raises ConnectionResetError if the response could not be sent to its end."""
        if self._is_lost:
            raise ConnectionResetError("the connection ended before the response")
        assert self.response is not None, "the application sent no response"
        assert self._is_over.is_set(), "the application left its response open"
        return self.response


def _response(start: Message) -> web.StreamResponse:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in start.get("headers", ()):
        if name.lower().decode("latin-1") not in _HOP_HEADERS:
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return web.StreamResponse(status=start["status"], headers=headers)
