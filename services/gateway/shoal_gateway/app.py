"""Wiring, in order of life. The only module that knows everyone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from shoal_common import log as shoal_log
from shoal_common.app import run_service, until_signal, write_ready_file
from shoal_common.clock import Clock, SystemClock
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcChannel
from shoal_common.settings import load
from shoal_common.side import SideServer
from shoal_common.tokens import TemplateRenderer
from shoal_gateway import limits
from shoal_gateway.answers import Answers
from shoal_gateway.auth import KeyCheck, load_or_create_key
from shoal_gateway.completion import Completer, CompletionLimits
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.http.anthropic import MessageRoutes
from shoal_gateway.http.chat import ChatRoutes
from shoal_gateway.http.completions import CompletionRoutes
from shoal_gateway.http.health import HealthRoutes
from shoal_gateway.http.mcp import McpLimits, McpRoutes
from shoal_gateway.http.middleware import make_middlewares
from shoal_gateway.http.models import ModelRoutes
from shoal_gateway.http.status import StatusRoutes
from shoal_gateway.local import LocalBackend
from shoal_gateway.mcp_server.catalogue import FleetCatalogue
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory, ModelLibrary
from shoal_gateway.peers import GrpcRouter, GrpcShardStore, GrpcStages
from shoal_gateway.prompt import Prompts
from shoal_gateway.sampling import SamplingDefaults
from shoal_gateway.settings import Settings
from shoal_gateway.shared import connect
from shoal_gateway.traits import TraitsLibrary


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the gateway until SIGTERM or SIGINT."""
    settings = load(Settings, argv)
    shoal_log.setup("gateway", settings.fleet.log_level, settings.fleet.log_format)
    run_service(lambda: run(settings))


async def run(settings: Settings) -> None:
    async with running(settings) as (address, side_address):
        write_ready_file(settings.ready_file, http=address, side=side_address, grpc="")
        await until_signal()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """The gateway while the context is open; yields its HTTP address and its side address.

    Leaving it stops accepting, lets running answers end for `drain_timeout_s`, and closes the
    rest in reverse.
    """
    clock = SystemClock()
    metrics = Metrics(new_registry())
    token = settings.fleet.secret_token()
    keys = KeyCheck(
        settings.api_key.get_secret_value() or load_or_create_key(settings.fleet.data_dir)
    )
    async with AsyncExitStack() as stack:
        # First of all: gRPC does not like to be forked.
        renderer = TemplateRenderer(settings.template_workers, settings.template_timeout_s)
        stack.push_async_callback(renderer.close)
        await renderer.start()
        router_channel = RpcChannel(settings.router_address, token=token)
        stack.push_async_callback(router_channel.close)
        store_channel = RpcChannel(settings.shard_store_address, token=token)
        stack.push_async_callback(store_channel.close)
        stages = GrpcStages(token, settings.idle_timeout_s)
        stack.push_async_callback(stages.close)

        database = Database(
            settings.database_url.get_secret_value()
            or sqlite_url(settings.fleet.data_dir / "gateway.db")
        )
        stack.push_async_callback(database.close)
        await database.start()
        shared = connect(settings.redis_url)
        if shared is not None:
            stack.push_async_callback(shared.aclose)
        router = GrpcRouter(router_channel, settings.call_timeout_s)
        directory = ModelDirectory(router, clock, settings.default_model)
        library = ModelLibrary(GrpcShardStore(store_channel, settings.call_timeout_s))
        stack.push_async_callback(library.close)
        completer = Completer(router, stages, directory, _completion_limits(settings), clock)
        traits = TraitsLibrary(GrpcShardStore(store_channel, settings.call_timeout_s))
        prompts = Prompts(directory, library, traits, renderer, _sampling_defaults(settings))
        local = LocalBackend(directory, prompts, completer)
        answers = Answers([local])
        app = web.Application(
            client_max_size=limits.BODY_SIZE_BYTES_MAX,
            middlewares=make_middlewares(keys, metrics, clock),
        )
        ChatRoutes(answers, metrics, clock, settings.strict_compat, settings.keep_alive_s).add_to(
            app
        )
        CompletionRoutes(
            Answers([local]), metrics, clock, settings.strict_compat, settings.keep_alive_s
        ).add_to(app)
        MessageRoutes(
            answers, metrics, clock, settings.strict_compat, settings.keep_alive_s
        ).add_to(app)
        ModelRoutes(directory, traits).add_to(app)
        StatusRoutes(directory, metrics, clock).add_to(app)
        _mcp_routes(answers, directory, metrics, clock, settings).add_to(app)
        HealthRoutes(directory, metrics).add_to(app)
        address = await _listen(app, settings, stack)
        side = SideServer(settings.side_address, metrics.registry, lambda: True)
        stack.push_async_callback(side.stop)
        yield address, await side.start()


async def _listen(app: web.Application, settings: Settings, stack: AsyncExitStack) -> str:
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=settings.drain_timeout_s,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, settings.listen_host, settings.listen_port)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _mcp_routes(
    answers: Answers,
    directory: ModelDirectory,
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
) -> McpRoutes:
    mcp_limits = McpLimits(
        concurrency=settings.mcp_concurrency,
        sessions_max=settings.mcp_sessions_max,
        session_idle_s=settings.mcp_session_idle_s,
    )
    catalogue = FleetCatalogue(directory)
    return McpRoutes(answers, catalogue, metrics, clock, mcp_limits, settings.listen_host)


def _sampling_defaults(settings: Settings) -> SamplingDefaults:
    return SamplingDefaults(
        temperature=settings.default_temperature,
        top_p=settings.default_top_p,
        top_k=settings.default_top_k,
        min_p=settings.default_min_p,
        presence_penalty=settings.default_presence_penalty,
        repetition_penalty=settings.default_repetition_penalty,
        max_tokens=settings.default_max_tokens,
    )


def _completion_limits(settings: Settings) -> CompletionLimits:
    return CompletionLimits(
        plan_timeout_s=settings.queue_timeout_s,
        replan_timeout_s=settings.replan_timeout_s,
        attempts_max=settings.attempts_max,
    )
