"""Wiring of the parent of several gateway processes, in order of life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shoal_common.app import until_signal, write_ready_file
from shoal_gateway.auth import load_or_create_key
from shoal_gateway.processes import Processes, reserved_port
from shoal_gateway.settings import Settings


async def run_parent(settings: Settings, argv: Sequence[str]) -> None:
    """Runs `settings.processes` gateways until SIGTERM or SIGINT, then drains them.

    `argv`: the flags that led to `settings`; the processes read them, and the environment, again.
    """
    async with parent_running(settings, argv) as (address, side_address, _):
        write_ready_file(settings.ready_file, http=address, side=side_address, grpc="")
        await until_signal()


@asynccontextmanager
async def parent_running(
    settings: Settings, argv: Sequence[str]
) -> AsyncIterator[tuple[str, str, Processes]]:
    """The processes while the context is open; yields the HTTP and side address, and them."""
    if not settings.api_key.get_secret_value():
        # Made once, before several would make it.
        load_or_create_key(settings.fleet.data_dir)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shoal-gateway-")))
        port = stack.enter_context(reserved_port(settings.listen_host, settings.listen_port))
        routes = _Side()
        side_address = await routes.listen(settings.side_address or "127.0.0.1:0", stack)
        # A later flag wins over an earlier one.
        arguments = [*argv, "--processes=1", "--reuse-port=true", f"--listen-port={port}"]
        arguments += ["--side-address=127.0.0.1:0", f"--metrics-address={side_address}"]
        # A session of MCP lives in one process, and the next request may come to another.
        arguments.append("--mcp-sessions-max=0")
        routes.processes = Processes(
            settings.processes, arguments, settings.drain_timeout_s, folder
        )
        await stack.enter_async_context(routes.processes.running())
        host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
        yield f"{host}:{port}", side_address, routes.processes


class _Side:
    """The side port of all processes together."""

    def __init__(self) -> None:
        self.processes: Processes | None = None

    async def listen(self, address: str, stack: AsyncExitStack) -> str:
        """Serve until the stack closes; returns the bound address."""
        app = web.Application()
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
        bound = runner.addresses[0]
        return f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        if self.processes is not None and self.processes.are_up:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    async def metrics(self, request: web.Request) -> web.Response:
        text = "" if self.processes is None else await self.processes.metrics()
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})
