"""Wiring of the entropy-drafter, in the order of its life; the only file that knows everyone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from shoal.drafter.v1 import drafter_pb2, drafter_pb2_grpc
from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.app import run_service, settle_memory, until_signal, write_ready_file
from shoal_common.clock import SystemClock
from shoal_common.ids import new_incarnation
from shoal_common.metrics import new_registry
from shoal_common.rpc import Dial, RpcChannel, RpcServer, Serve
from shoal_common.settings import ConfigurationError, load
from shoal_common.side import SideServer
from shoal_entropy_drafter.answering import Answerer, AnswerLimits
from shoal_entropy_drafter.cache.base import AnswerCache, CacheOff
from shoal_entropy_drafter.draft.base import DraftSource
from shoal_entropy_drafter.embedder.base import Embedder
from shoal_entropy_drafter.gate import GateRules
from shoal_entropy_drafter.gate_settings import gate_rules
from shoal_entropy_drafter.metrics import (
    MeasuredEmbedder,
    NullRecorder,
    PrometheusRecorder,
    Recorder,
    watch_entries,
)
from shoal_entropy_drafter.peers import (
    AbsentEmbedder,
    ended,
    open_cache,
    open_source,
    opened_embedder,
)
from shoal_entropy_drafter.question import QuestionRules
from shoal_entropy_drafter.refusals import drafter_key
from shoal_entropy_drafter.remembering import Memory
from shoal_entropy_drafter.rpc import DrafterRpc
from shoal_entropy_drafter.settings import Settings
from shoal_entropy_drafter.start_checks import check_drafter

log = logging.getLogger(__name__)

SERVICE_NAME = "shoal.drafter.v1.DrafterService"
_WRONG_SETTINGS = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run the entropy-drafter until SIGTERM or SIGINT; exit status 2 where settings are wrong."""
    settings = load(Settings, argv)
    try:
        _run(settings)
    except ConfigurationError as err:
        for problem in err.problems:
            sys.stderr.write(f"shoal-entropy-drafter: {problem}\n")
        sys.exit(_WRONG_SETTINGS)


def _run(settings: Settings) -> None:
    fleet = settings.fleet
    secrets = (
        fleet.secret_token(),
        drafter_key(settings),
        settings.openai_api_key.get_secret_value(),
        settings.embedding_api_key.get_secret_value(),
        settings.qdrant_api_key.get_secret_value(),
    )
    shoal_log.setup("entropy-drafter", fleet.log_level, fleet.log_format, secrets=secrets)
    provider = trace.setup("entropy_drafter")
    try:
        run_service(lambda: run(settings))
    finally:
        provider.shutdown()


async def run(settings: Settings) -> None:
    """Serve until a signal asks to stop, then drain. Raises ConfigurationError."""
    async with running(settings) as drafter:
        write_ready_file(
            settings.ready_file, grpc=drafter.grpc_address, side=drafter.side_address, http=""
        )
        settle_memory()
        log.info("entropy-drafter stopping", extra={"signal": await until_signal()})


@dataclass(frozen=True)
class Drafter:
    """An entropy-drafter that runs."""

    grpc_address: str
    side_address: str


@asynccontextmanager
async def running(
    settings: Settings,
    embedder: Embedder | None = None,
    serve: Serve = RpcServer,
    dial: Dial = RpcChannel,
) -> AsyncIterator[Drafter]:
    """The service while the context is open. Leaving it drains the answers, then lets go of all.

    embedder: the one that the settings ask for unless said; closed in either case. Raises
    ConfigurationError where the settings cannot be used, or an upstream that they name.
    """
    # Before anything else is opened: these settings are wrong however the world is.
    rules = gate_rules(settings) if settings.drafter_provider != "none" else None
    registry, recorder = _recording(settings)
    is_ready = asyncio.Event()
    async with AsyncExitStack() as stack:
        side = SideServer(settings.side_address, registry, is_ready.is_set)
        stack.push_async_callback(side.stop)
        side_address = await side.start()
        embedder = embedder or await opened_embedder(settings)
        stack.push_async_callback(embedder.close)
        drafting = None if rules is None else await _drafting(settings, rules, dial, stack)
        # Only answers are kept, and without a drafter there are none.
        cache = await _cache(settings, embedder, recorder, stack) if drafting else CacheOff()
        server = serve(
            settings.listen_address,
            token=settings.fleet.secret_token(),
            drain_timeout_s=settings.drain_timeout_s,
        )
        servicer = _servicer(settings, drafting, cache, embedder, recorder)
        server.add(drafter_pb2_grpc.add_DrafterServiceServicer_to_server, servicer, SERVICE_NAME)
        stack.push_async_callback(server.stop)
        grpc_address = await server.start()
        is_ready.set()
        stack.callback(is_ready.clear)
        yield Drafter(grpc_address, side_address)


def _recording(settings: Settings) -> tuple[CollectorRegistry, Recorder]:
    """The registry that is shown, and who counts on it."""
    if not settings.metrics_enabled:
        return CollectorRegistry(), NullRecorder()
    registry = new_registry()
    return registry, PrometheusRecorder(registry)


@dataclass(frozen=True)
class _Drafting:
    """Who drafts, and how drafts are judged."""

    source: DraftSource
    rules: GateRules


async def _drafting(
    settings: Settings, rules: GateRules, dial: Dial, stack: AsyncExitStack
) -> _Drafting:
    source = open_source(settings, rules.candidate_count, dial, stack)
    if settings.drafter_provider == "openai":
        await check_drafter(source, settings)
    return _Drafting(source, rules)


async def _cache(
    settings: Settings, embedder: Embedder, recorder: Recorder, stack: AsyncExitStack
) -> AnswerCache:
    clock = SystemClock()
    measured = MeasuredEmbedder(embedder, recorder, "cache")
    cache = await stack.enter_async_context(open_cache(settings, measured, recorder, clock))
    if isinstance(cache, CacheOff):
        return cache
    if not (await cache.stats()).is_ready:
        log.warning("cache not ready, requests go on without it until it is")
    watching = asyncio.create_task(watch_entries(cache, recorder, clock))
    stack.push_async_callback(ended, watching)
    return cache


def _servicer(
    settings: Settings,
    drafting: _Drafting | None,
    cache: AnswerCache,
    embedder: Embedder,
    recorder: Recorder,
) -> DrafterRpc:
    has_cache = not isinstance(cache, CacheOff)
    memory = Memory(cache, _question_rules(settings), recorder, settings.cache_heavyweight)
    limits = AnswerLimits(settings.drafter_timeout_s, settings.answer_concurrency)
    answerer = None
    if drafting is not None:
        answerer = Answerer(drafting.rules, drafting.source, memory, recorder, limits)
    return DrafterRpc(
        about=_about(settings, drafting, has_cache, embedder),
        about_cache=_about_cache(settings, has_cache),
        answerer=answerer,
        memory=memory,
        cache=cache,
        embedder=MeasuredEmbedder(embedder, recorder, "client"),
        recorder=recorder,
    )


def _question_rules(settings: Settings) -> QuestionRules:
    return QuestionRules(
        settings.cache_temperature_max,
        settings.cache_turns_max,
        frozenset(settings.cache_no_store_tenants),
        drafted_by=settings.drafter_model,
    )


def _about(
    settings: Settings, drafting: _Drafting | None, has_cache: bool, embedder: Embedder
) -> drafter_pb2.DescribeResponse:
    about = drafter_pb2.DescribeResponse(
        incarnation=new_incarnation(),
        kind=drafter_pb2.DRAFTER_KIND_NONE,
        has_cache=has_cache,
        keeps_heavyweight=has_cache and settings.cache_heavyweight,
    )
    if not isinstance(embedder, AbsentEmbedder):
        about.embedding_model = embedder.model
        about.embedding_dimensions = embedder.dimensions
        about.embeds_itself = settings.embedding_provider == "local"
    if drafting is None:
        return about
    rules = drafting.rules
    about.kind = drafting.source.kind
    about.model = settings.drafter_model
    about.timeout_ms = round(settings.drafter_timeout_s * 1000)
    about.threshold = rules.threshold
    about.window_size = rules.window_size
    about.early_exit_count = rules.early_exit_count
    about.candidate_count = rules.candidate_count
    about.is_speculative = rules.is_speculative
    about.soft_threshold_mult = rules.soft_threshold_mult
    about.statistic = rules.statistic
    about.estimate = rules.estimate
    return about


def _about_cache(settings: Settings, is_enabled: bool) -> drafter_pb2.GetCacheResponse:
    """What of the cache is settled; its counts are asked for."""
    if not is_enabled:
        return drafter_pb2.GetCacheResponse()
    return drafter_pb2.GetCacheResponse(
        is_enabled=True,
        ttl_s=settings.cache_ttl_s,
        similarity_threshold=settings.cache_similarity_threshold,
        vector_store="server" if settings.qdrant_url else "edge",
        collection=settings.qdrant_collection,
    )
