"""Wiring, in order of life. The only module that knows everyone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aiohttp import web
from redis.asyncio import Redis

from shoal_common import log as shoal_log
from shoal_common.app import run_service, settle_memory, until_signal, write_ready_file
from shoal_common.clock import Clock, SystemClock
from shoal_common.driving import GrpcRouter, GrpcStages, Privacy
from shoal_common.host import host_id
from shoal_common.metrics import new_registry
from shoal_common.redis_client import connect
from shoal_common.rpc import RpcChannel
from shoal_common.settings import ConfigurationError, load
from shoal_common.side import SideServer
from shoal_common.tokens import TemplateRenderer
from shoal_gateway.access.gate import Gate
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.access.opening import make_gate
from shoal_gateway.answers import Answers, Backend
from shoal_gateway.auth import load_or_create_key
from shoal_gateway.cascade.opening import check_settings, open_cascade
from shoal_gateway.completion import Completer, CompletionLimits
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.drafter import Drafter, GrpcDrafter
from shoal_gateway.embedder import OwnEmbedder
from shoal_gateway.history import History
from shoal_gateway.http.anthropic import MessageRoutes
from shoal_gateway.http.body import BODY_LIMITS, BodyLimits
from shoal_gateway.http.caller import FIELD_POLICY, PRIVACY, FieldPolicy
from shoal_gateway.http.cascade import CascadeFacts, CascadeRoutes
from shoal_gateway.http.chat import ChatRoutes
from shoal_gateway.http.completions import CompletionRoutes
from shoal_gateway.http.embeddings import EmbeddingRoutes
from shoal_gateway.http.far_responses import FarResponses
from shoal_gateway.http.headers import add_headers
from shoal_gateway.http.health import HealthRoutes
from shoal_gateway.http.keys import KeyRoutes
from shoal_gateway.http.mcp import McpLimits, McpRoutes
from shoal_gateway.http.middleware import make_middlewares
from shoal_gateway.http.models import ModelRoutes
from shoal_gateway.http.provider_relay import (
    CHATS,
    MESSAGES,
    RESPONSES,
    Dialect,
    ProviderRelay,
)
from shoal_gateway.http.providers import SHOWS_ADMINS, ProviderRoutes
from shoal_gateway.http.relay import RelayRoutes
from shoal_gateway.http.responses import ResponsesRoutes
from shoal_gateway.http.responses_admin import ResponsesAdminRoutes
from shoal_gateway.http.server_log import ServerLog
from shoal_gateway.http.status import StatusRoutes
from shoal_gateway.images import ImageUrls
from shoal_gateway.local import LocalBackend
from shoal_gateway.mcp_server.catalogue import FleetCatalogue, JoinedCatalogue, ModelCatalogue
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory, ModelLibrary
from shoal_gateway.parent import run_parent
from shoal_gateway.peers import GrpcShardStore
from shoal_gateway.probe import probe
from shoal_gateway.prompt import Prompts
from shoal_gateway.providers.assembly import ProviderConfig, Providers, open_providers
from shoal_gateway.providers.claude_cli import ClaudeBackend, ClaudeCli, ClaudeConfig
from shoal_gateway.providers.client import ClientLimits
from shoal_gateway.providers.keys import SECRET_FILE_NAME, FoundKey
from shoal_gateway.providers.last_word import LastWord
from shoal_gateway.providers.routing import NamedModel, RoutingRules
from shoal_gateway.providers.table import PROVIDERS
from shoal_gateway.responses.background import BackgroundRuns
from shoal_gateway.responses.places import ResponsePlaces
from shoal_gateway.responses.store import ResponseStore, StoreLimits
from shoal_gateway.sampling import SamplingDefaults
from shoal_gateway.settings import Settings, found_variables, search_path
from shoal_gateway.shape import ReadingRules
from shoal_gateway.traits import TraitsLibrary
from shoal_gateway.trial_draft import TrialDrafts

LINGERING_S = 2.0


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the gateway until SIGTERM or SIGINT; exit status 2 where settings are wrong."""
    settings = load(Settings, argv)
    shoal_log.setup("gateway", settings.fleet.log_level, settings.fleet.log_format)
    try:
        check_settings(settings)
        if settings.processes > 1:
            flags = sys.argv[1:] if argv is None else argv
            run_service(lambda: run_parent(settings, flags))
        else:
            run_service(lambda: run(settings))
    except ConfigurationError as err:
        sys.stderr.writelines(f"shoal-gateway: {problem}\n" for problem in err.problems)
        sys.exit(2)


async def run(settings: Settings) -> None:
    async with running(settings) as (address, side_address):
        write_ready_file(settings.ready_file, http=address, side=side_address, grpc="")
        settle_memory()
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
    async with AsyncExitStack() as stack:
        # First of all: gRPC does not like to be forked.
        renderer = TemplateRenderer(settings.template_workers, settings.template_timeout_s)
        stack.push_async_callback(renderer.close)
        await renderer.start()
        router_channel = _open_channel(settings.router_address, token, stack)
        store_channel = _open_channel(settings.shard_store_address, token, stack)
        drafter = _open_drafter(settings, token, stack)
        embedder = _embedder(settings, drafter, clock)
        stages = GrpcStages(token, settings.idle_timeout_s, settings.stage_silence_s)
        stack.push_async_callback(stages.close)

        database, shared = await _open_stores(settings, stack)
        history = History(settings.request_history_limit, settings.observability_capture_body)
        gate = await _open_gate(settings, database, shared, clock, stack)
        meter = TokenMeter(gate.budgets, history)
        router = GrpcRouter(router_channel, settings.call_timeout_s)
        store = GrpcShardStore(store_channel, settings.call_timeout_s)
        directory, traits, local = _open_local(
            settings, router, stages, store, renderer, clock, stack
        )
        providers = await stack.enter_async_context(
            open_providers(_provider_config(settings), database, clock, metrics)
        )
        images = ImageUrls(settings.allow_image_urls, settings.image_url_timeout_s)
        stack.push_async_callback(images.close)
        claude = ClaudeCli(_claude_config(settings), providers.keys)
        by_claude = ClaudeBackend(claude)
        # Who refuses a name in the end is the fleet.
        backends: list[Backend] = [local, by_claude, providers.backend, LastWord(local)]
        cascade = await open_cascade(
            settings, drafter, local, backends, metrics, meter, clock, stack
        )
        everyone = backends if cascade is None else [cascade, *backends]
        answers = Answers(everyone, images, meter)
        app = web.Application(
            client_max_size=settings.max_request_body_bytes,
            middlewares=make_middlewares(gate, history, metrics, clock, settings.metrics_path),
        )
        _set_policies(app, settings, clock)
        app[SHOWS_ADMINS] = settings.expose_upstream_errors == "admin"
        relay = _relay(providers, tuple(everyone[:-2]), meter, metrics, settings.keep_alive_s)
        own_answers = Answers([local] if cascade is None else [cascade, local], meter=meter)
        _add_chats(app, answers, own_answers, relay, metrics, clock, settings)
        ModelRoutes(directory, traits, providers.models, embedder, cascade).add_to(app)
        StatusRoutes(directory, metrics, clock).add_to(app)
        catalogue = JoinedCatalogue(FleetCatalogue(directory), providers.models, cascade)
        _mcp_routes(answers, catalogue, metrics, clock, settings).add_to(app)
        _add_responses(app, answers, shared, metrics, clock, settings, relay(clock, RESPONSES))
        ProviderRoutes(providers, claude).add_to(app)
        _add_embeddings(app, providers, meter, embedder, settings)
        _health_routes(settings, directory, metrics).add_to(app)
        _add_admin(app, settings, gate, drafter, local, meter)
        if settings.observability_enabled:
            RelayRoutes(directory, history, gate, metrics, clock).add_to(app)
        await probe(settings, router, stack)
        address = await _listen(app, settings, stack)
        side = SideServer(settings.side_address, metrics.registry, lambda: True)
        stack.push_async_callback(side.stop)
        yield address, await side.start()


def _open_channel(address: str, token: str, stack: AsyncExitStack) -> RpcChannel:
    channel = RpcChannel(address, token=token)
    stack.push_async_callback(channel.close)
    return channel


def _open_drafter(settings: Settings, token: str, stack: AsyncExitStack) -> Drafter | None:
    """The entropy-drafter, whether it answers now or not; None where none is named."""
    if not settings.drafter_address:
        return None
    channel = _open_channel(settings.drafter_address, token, stack)
    return GrpcDrafter(channel, settings.call_timeout_s)


def _health_routes(settings: Settings, directory: ModelDirectory, metrics: Metrics) -> HealthRoutes:
    return HealthRoutes(
        directory,
        metrics,
        settings.metrics_address,
        settings.metrics_path,
        settings.metrics_enabled,
    )


def _embedder(settings: Settings, drafter: Drafter | None, clock: Clock) -> OwnEmbedder | None:
    return None if drafter is None else OwnEmbedder(drafter, settings.drafter_address, clock)


def _open_local(
    settings: Settings,
    router: GrpcRouter,
    stages: GrpcStages,
    store: GrpcShardStore,
    renderer: TemplateRenderer,
    clock: Clock,
    stack: AsyncExitStack,
) -> tuple[ModelDirectory, TraitsLibrary, LocalBackend]:
    """The fleet's own models."""
    directory = ModelDirectory(router, clock, settings.default_model, settings.router_wait_s)
    library = ModelLibrary(store)
    stack.push_async_callback(library.close)
    limits = _completion_limits(settings)
    completer = Completer(router, stages, directory, limits, clock, host_id())
    traits = TraitsLibrary(
        store,
        settings.thinking_levels if settings.thinking_supported else (),
    )
    prompts = Prompts(
        directory,
        library,
        traits,
        renderer,
        _sampling_defaults(settings),
        ReadingRules(settings.tool_mode, settings.reasoning_mode),
    )
    return directory, traits, LocalBackend(directory, prompts, completer)


async def _open_stores(settings: Settings, stack: AsyncExitStack) -> tuple[Database, Redis | None]:
    """What outlives the process, and what replicas share, if anything."""
    settings.fleet.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(
        settings.database_url.get_secret_value()
        or sqlite_url(settings.fleet.data_dir / "gateway.db")
    )
    stack.push_async_callback(database.close)
    await database.start()
    shared = connect(settings.redis_url)
    if shared is not None:
        stack.push_async_callback(shared.aclose)
    return database, shared


async def _open_gate(
    settings: Settings,
    database: Database,
    shared: Redis | None,
    clock: Clock,
    stack: AsyncExitStack,
) -> Gate:
    """A gate that keeps its books until the stack closes, and writes them down once more then."""
    house_key = settings.api_key.get_secret_value() or load_or_create_key(settings.fleet.data_dir)
    gate = make_gate(settings, house_key, database, shared, clock)
    stop = asyncio.Event()
    books = asyncio.create_task(gate.keep_books(stop))

    async def close() -> None:
        stop.set()
        await books

    stack.push_async_callback(close)
    return gate


def _set_policies(app: web.Application, settings: Settings, clock: Clock) -> None:
    """What holds for every body and every answer."""
    app[BODY_LIMITS] = BodyLimits(
        settings.max_request_body_bytes, settings.json_depth_max, settings.read_timeout_s
    )
    app[FIELD_POLICY] = FieldPolicy(settings.unknown_field_policy, settings.warn_on_stripped_fields)
    app[PRIVACY] = Privacy(settings.privacy, settings.encrypted_pipeline)
    add_headers(app, clock, settings.cors_origin)


def _is_strict(settings: Settings) -> bool:
    """Whether unknown fields are refused."""
    return settings.strict_compat or settings.unknown_field_policy == "reject"


async def _listen(app: web.Application, settings: Settings, stack: AsyncExitStack) -> str:
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=ServerLog(),
        shutdown_timeout=settings.drain_timeout_s,
        keepalive_timeout=settings.keepalive_timeout_s,
        # A body that nobody wants is read on for this long, so that its sender sees the answer.
        lingering_time=LINGERING_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(
        runner, settings.listen_host, settings.listen_port, reuse_port=settings.reuse_port or None
    )
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _mcp_routes(
    answers: Answers,
    catalogue: ModelCatalogue,
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
) -> McpRoutes:
    mcp_limits = McpLimits(
        concurrency=settings.mcp_concurrency,
        sessions_max=settings.mcp_sessions_max,
        session_idle_s=settings.mcp_session_idle_s,
    )
    return McpRoutes(
        answers,
        catalogue,
        metrics,
        clock,
        mcp_limits,
        settings.listen_host,
        settings.cors_origin,
    )


def _provider_config(settings: Settings) -> ProviderConfig:
    data_dir = settings.fleet.data_dir
    variables = {name for provider in PROVIDERS for name in provider.key_variables}
    variables |= {model.auth_env for model in settings.cloud_models.values() if model.auth_env}
    found = found_variables(sorted(variables), data_dir)
    return ProviderConfig(
        secret_path=settings.provider_secret_file or data_dir / SECRET_FILE_NAME,
        found_keys={name: FoundKey(value, source) for name, (value, source) in found.items()},
        rules=RoutingRules(
            base_urls=settings.provider_base_urls,
            named={
                name: NamedModel(model.base_url, model.auth_env, model.ctx_size, model.type)
                for name, model in settings.cloud_models.items()
            },
            fallback_url=settings.cloud_fallback_url,
            fallback_key=settings.cloud_fallback_key.get_secret_value(),
        ),
        limits=ClientLimits(
            connect_timeout_s=settings.provider_connect_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            response_size_bytes_max=settings.max_upstream_response_bytes,
            in_flight_max=settings.provider_concurrency_max,
            shows_upstream_errors=settings.expose_upstream_errors == "always",
        ),
        max_tokens_default=settings.default_max_tokens,
    )


def _relay(
    providers: Providers,
    earlier: tuple[Backend, ...],
    meter: TokenMeter,
    metrics: Metrics,
    keep_alive_s: float,
) -> Callable[[Clock, Dialect], ProviderRelay]:
    """A relay for each dialect that providers speak."""
    routing, client = providers.routing, providers.client
    return partial(
        ProviderRelay, routing, client, earlier, meter, metrics, keep_alive_s=keep_alive_s
    )


def _add_chats(
    app: web.Application,
    answers: Answers,
    own_answers: Answers,
    relay: Callable[[Clock, Dialect], ProviderRelay],
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
) -> None:
    """`own_answers` are the fleet's alone: providers have no older completions."""
    is_strict, keep_alive_s = _is_strict(settings), settings.keep_alive_s
    ChatRoutes(answers, metrics, clock, is_strict, keep_alive_s, relay(clock, CHATS)).add_to(app)
    MessageRoutes(answers, metrics, clock, is_strict, keep_alive_s, relay(clock, MESSAGES)).add_to(
        app
    )
    CompletionRoutes(own_answers, metrics, clock, is_strict, keep_alive_s).add_to(app)


def _add_embeddings(
    app: web.Application,
    providers: Providers,
    meter: TokenMeter,
    own: OwnEmbedder | None,
    settings: Settings,
) -> None:
    routing, client = providers.routing, providers.client
    EmbeddingRoutes(routing, client, meter, own, _is_strict(settings)).add_to(app)


def _add_admin(
    app: web.Application,
    settings: Settings,
    gate: Gate,
    drafter: Drafter | None,
    local: LocalBackend,
    meter: TokenMeter,
) -> None:
    """Keys, and the cascade with what it keeps."""
    facts = CascadeFacts(
        cascade_model=settings.cascade_model,
        heavyweight_model=settings.heavyweight_model,
        heavyweight_timeout_s=settings.heavyweight_timeout_s,
        stream_mode=settings.stream_mode,
        audit_share=settings.cascade_audit_share,
        drafter_address=settings.drafter_address,
    )
    trials = None
    if drafter is not None:
        defaults = _sampling_defaults(settings)
        trials = TrialDrafts(drafter, local, defaults, host_id(), settings.queue_timeout_s)
    CascadeRoutes(facts, drafter, trials, meter).add_to(app)
    KeyRoutes(gate).add_to(app)


def _add_responses(
    app: web.Application,
    answers: Answers,
    shared: Redis | None,
    metrics: Metrics,
    clock: Clock,
    settings: Settings,
    relay: ProviderRelay,
) -> None:
    store_limits = StoreLimits(
        ttl_s=settings.response_ttl_s,
        size_bytes_max=settings.response_size_bytes_max,
        alive_s=settings.response_alive_s,
    )
    store = ResponseStore(shared, store_limits, clock)
    far = FarResponses(relay, ResponsePlaces(shared, settings.response_ttl_s))
    runs = BackgroundRuns(store, clock, settings.response_background_max, settings.drain_timeout_s)
    metrics.background_responses.set_function(lambda: runs.count)
    ResponsesRoutes(
        answers, store, runs, metrics, clock, _is_strict(settings), settings.keep_alive_s, far
    ).add_to(app)
    ResponsesAdminRoutes(store).add_to(app)


def _claude_config(settings: Settings) -> ClaudeConfig:
    return ClaudeConfig(
        is_allowed=settings.claude_subscription_enabled,
        binary=settings.claude_binary,
        home=settings.fleet.data_dir / "claude_home",
        search_path=search_path(),
        token=settings.claude_oauth_token.get_secret_value(),
        model=settings.claude_default_model,
        concurrency=settings.claude_concurrency,
        timeout_s=settings.claude_timeout_s,
    )


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
        router_wait_s=settings.router_wait_s,
        replan_timeout_s=settings.replan_timeout_s,
        attempts_max=settings.attempts_max,
    )
