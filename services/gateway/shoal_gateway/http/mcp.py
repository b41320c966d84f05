"""The MCP endpoint over HTTP: sessions of the handshake revisions, requests of the newer one.

The SDK's transport does the protocol. Here are its lifetime, the check of web pages' origins, and
what tools must know of the request that carries their call.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from shoal_common.clock import Clock
from shoal_gateway.access.hosts import is_allowed_origin
from shoal_gateway.answers import Answers
from shoal_gateway.http.asgi import answer
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import CALLER, for_caller
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.mcp_server.asking import Asker
from shoal_gateway.mcp_server.catalogue import ModelCatalogue
from shoal_gateway.mcp_server.errors import OriginRefused
from shoal_gateway.mcp_server.node import Node
from shoal_gateway.mcp_server.server import SCOPE_KEY, HttpCall, make_server
from shoal_gateway.mcp_server.tools import Toolbox
from shoal_gateway.metrics import Metrics

PATH = "/mcp"
SESSION_HEADER = "Mcp-Session-Id"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class McpLimits:
    """sessions_max 0: no sessions, every request stands for itself, so that any replica can
    answer it. concurrency: models that one call asks at once."""

    concurrency: int = 4
    sessions_max: int = 1000
    session_idle_s: float = 1800.0


class McpRoutes:
    """`/mcp`. Pages of `origins` may call it besides those that `listen_host` allows."""

    def __init__(
        self,
        answers: Answers,
        catalogue: ModelCatalogue,
        metrics: Metrics,
        clock: Clock,
        mcp_limits: McpLimits,
        listen_host: str,
        origins: Sequence[str],
    ) -> None:
        # Their lines below warnings hold session ids and messages.
        for name in ("mcp", "sse_starlette"):
            logging.getLogger(name).setLevel(logging.WARNING)
        node = Node(catalogue, clock, clock.monotonic())
        asker = Asker(answers, metrics, clock, mcp_limits.concurrency)
        server = make_server(Toolbox(asker, catalogue, node), node)
        self._limits = mcp_limits
        self._streams = self._manager(server, is_stateless=not mcp_limits.sessions_max)
        # Answers with plain JSON who does not ask for a stream, and keeps no session for them.
        self._plain = self._manager(server, is_stateless=True, is_json=True)
        self._listens_on_loopback = _is_loopback(listen_host)
        self._origins = origins

    def add_to(self, app: web.Application) -> None:
        app.cleanup_ctx.append(self._run)
        # There is no GET: the server has nothing to say that no one asked.
        app.router.add_post(PATH, self.post)
        app.router.add_delete(PATH, self.delete)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """One JSON-RPC message."""
        self._check_origin(request)
        # The rule for bodies is every route's; the SDK reads the same bytes again.
        await read_object(request)
        return await self._answer(request)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """The end of a session."""
        self._check_origin(request)
        return await self._answer(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        call = HttpCall(request[REQUEST_ID], asyncio.Event(), partial(for_caller, request))
        manager = self._streams if self._wants_stream(request) else self._plain
        extra = {SCOPE_KEY: call, "user": _owner(request)}
        body = await request.read()
        return await answer(manager.handle_request, request, body, call.is_over, extra)

    def _wants_stream(self, request: web.Request) -> bool:
        return EVENT_STREAM in request.headers.get(hdrs.ACCEPT, "") or (
            SESSION_HEADER in request.headers
        )

    def _manager(
        self, server: Server[Any], *, is_stateless: bool, is_json: bool = False
    ) -> StreamableHTTPSessionManager:
        return StreamableHTTPSessionManager(
            server,
            json_response=is_json,
            stateless=is_stateless,
            session_idle_timeout=self._limits.session_idle_s,
            max_sessions=self._limits.sessions_max or None,
            # The gateway has read it, under its own limit.
            max_request_body_size=sys.maxsize,
        )

    def _check_origin(self, request: web.Request) -> None:
        """Only web pages send an Origin. Raises OriginRefused.

        On loopback the same host is not enough: a page can point its own name at this machine.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or is_allowed_origin(origin, self._origins):
            return
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError as err:
            raise OriginRefused(origin) from err
        if parts.scheme in ("http", "https"):
            if self._listens_on_loopback and _is_loopback(host):
                return
            if not self._listens_on_loopback and parts.netloc.lower() == request.host.lower():
                return
        raise OriginRefused(origin)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        """Both managers live in a task of their own: they must end in the one they began in."""
        is_up, is_down = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(self._hold(is_up, is_down))
        waiting = asyncio.create_task(is_up.wait())
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not task.done():
            yield
        is_down.set()
        await task

    async def _hold(self, is_up: asyncio.Event, is_down: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._streams.run())
            await stack.enter_async_context(self._plain.run())
            is_up.set()
            await is_down.wait()


def _owner(request: web.Request) -> AuthenticatedUser:
    """A session is its key's: with another key it does not exist."""
    key_id = request[CALLER].key_id
    return AuthenticatedUser(AccessToken(token="", client_id=key_id, scopes=[]))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
