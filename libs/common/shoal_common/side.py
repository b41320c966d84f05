"""The side port: `/healthz`, `/readyz` and `/metrics` over a minimal HTTP server.

Owns that port. Does not know what ready means: it asks. Small on purpose, so that no service
needs a web framework for it: GET and HEAD only, one request per connection, everything bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

log = logging.getLogger(__name__)

_HEAD_BYTES_MAX = 8192
_REQUEST_TIMEOUT_S = 5.0
_CONNECTIONS_MAX = 32
_TEXT = "text/plain; charset=utf-8"


class SideServer:
    """Serves one process's health and metrics. An empty address makes start and stop do nothing."""

    def __init__(
        self, address: str, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        self._configured = address
        self._registry = registry
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self) -> str:
        """Listen; returns the bound `host:port`, "" when turned off. OSError if it is taken."""
        if not self._configured:
            return ""
        host, port = _host_port(self._configured)
        self._server = await asyncio.start_server(
            self._accept, host or None, port, limit=_HEAD_BYTES_MAX
        )
        bound = self._server.sockets[0].getsockname()
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        return self.address

    async def stop(self) -> None:
        """Close the port and every connection; idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("side request broken off")
        finally:
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, b"not an HTTP/1 request\n")
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD only\n", allow=True)
        status, body, content_type = self._route(target.split("?", 1)[0])
        return _response(status, body, content_type, has_body=method == "GET")

    def _route(self, path: str) -> tuple[HTTPStatus, bytes, str]:
        if path == "/healthz":
            return HTTPStatus.OK, b"ok\n", _TEXT
        if path == "/readyz":
            if self._is_ready():
                return HTTPStatus.OK, b"ready\n", _TEXT
            return HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n", _TEXT
        if path == "/metrics":
            return HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST
        return HTTPStatus.NOT_FOUND, b"only /healthz, /readyz and /metrics\n", _TEXT


def _response(
    status: HTTPStatus,
    body: bytes,
    content_type: str = _TEXT,
    *,
    allow: bool = False,
    has_body: bool = True,
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        f"{'Allow: GET, HEAD' + chr(13) + chr(10) if allow else ''}\r\n"
    )
    return head.encode("ascii") + (body if has_body else b"")


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
