"""Whom the service calls, made from the settings: the fleet or an upstream, an embedder, stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from shoal_common import redis_client
from shoal_common.clock import Clock
from shoal_common.driving import GrpcRouter, GrpcStages
from shoal_common.host import host_id
from shoal_common.log import redact
from shoal_common.rpc import Dial
from shoal_common.settings import ConfigurationError
from shoal_entropy_drafter.cache.base import AnswerCache, CacheMetrics, CacheOff, VectorIndex
from shoal_entropy_drafter.cache.cache import CacheRules, SemanticCache
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.records import Records
from shoal_entropy_drafter.cache.server import ServerIndex
from shoal_entropy_drafter.draft.base import DraftSource
from shoal_entropy_drafter.draft.fleet import FleetDrafts
from shoal_entropy_drafter.embedder.base import Embedded, Embedder
from shoal_entropy_drafter.embedder.opening import open_embedder
from shoal_entropy_drafter.errors import CollectionRefused, EmbedderMissing
from shoal_entropy_drafter.guard import difference
from shoal_entropy_drafter.refusals import check_url, drafter_key, refusal
from shoal_entropy_drafter.settings import Settings

log = logging.getLogger(__name__)

STAGE_SILENCE_S = 2.0
"""Without a sign of life from a head for so long, its draft counts as lost."""
_LIST_TIMEOUT_S = 5.0


def open_source(
    settings: Settings, candidate_count: int, dial: Dial, stack: AsyncExitStack
) -> DraftSource:
    """Who drafts; `stack` closes it. Raises ConfigurationError.

    Nothing is dialled here: a fleet may start after its drafter; `start_checks` asks upstreams.
    """
    assert settings.drafter_provider != "none", "nobody drafts"
    if settings.drafter_provider == "fleet":
        return _fleet(settings, candidate_count, dial, stack)
    # Only where it is used: it brings the SDK.
    from shoal_entropy_drafter.draft.upstream import UpstreamDrafts

    check_url("drafter_base_url", settings.drafter_base_url)
    source = UpstreamDrafts(
        settings.drafter_model,
        settings.drafter_base_url,
        drafter_key(settings),
        settings.drafter_timeout_s,
        candidate_count,
    )
    stack.push_async_callback(source.close)
    return source


def _fleet(
    settings: Settings, candidate_count: int, dial: Dial, stack: AsyncExitStack
) -> DraftSource:
    token = settings.fleet.secret_token()
    channel = dial(settings.router_address, token=token)
    stack.push_async_callback(channel.close)
    stages = GrpcStages(token, settings.drafter_timeout_s, STAGE_SILENCE_S, dial)
    stack.push_async_callback(stages.close)
    router = GrpcRouter(channel, _LIST_TIMEOUT_S)
    return FleetDrafts(settings.drafter_model, router, stages, candidate_count, host_id())


@asynccontextmanager
async def open_cache(
    settings: Settings, embedder: Embedder, metrics: CacheMetrics, clock: Clock
) -> AsyncIterator[AnswerCache]:
    """The cache while the context is open, swept in the background.

    A store that is away is warned of and asked again later. Raises ConfigurationError where the
    collection that exists is not the one asked for, or an address names no store.
    """
    if not (settings.cache_enabled and settings.redis_url):
        yield CacheOff()
        return
    async with AsyncExitStack() as stack:
        records = Records(
            _redis(settings, stack),
            f"shoal:{settings.qdrant_collection}:",
            settings.cache_entries_max,
            clock,
        )
        rules = CacheRules(
            settings.cache_similarity_threshold,
            settings.cache_ttl_s,
            settings.cache_timeout_ms / 1000,
        )
        index = _index(settings, clock)
        cache = SemanticCache(rules, records, index, embedder, difference, clock, metrics)
        stack.push_async_callback(cache.close)
        try:
            await cache.start()
        except CollectionRefused as err:
            raise ConfigurationError([str(err)]) from err
        sweeping = asyncio.create_task(cache.run())
        stack.push_async_callback(ended, sweeping)
        yield cache


def _redis(settings: Settings, stack: AsyncExitStack) -> Redis:
    try:
        client = redis_client.connect(settings.redis_url)
    except ValueError as err:
        problem = f"'{redact(settings.redis_url)}' is not the address of a Redis"
        raise refusal("redis_url", f"{problem}: write redis://host:port/number") from err
    assert client is not None, "an address was given"
    stack.push_async_callback(client.aclose)
    return client


def _index(settings: Settings, clock: Clock) -> VectorIndex:
    collection = Collection(
        settings.qdrant_collection, settings.embedding_dimensions, settings.embedding_model
    )
    if not settings.qdrant_url:
        # Only where it is used: qdrant-edge-py has no wheel for every system.
        from shoal_entropy_drafter.cache.edge import EdgeIndex

        folder = settings.fleet.data_dir / "qdrant" / settings.qdrant_collection
        return EdgeIndex(folder, collection, clock)
    check_url("qdrant_url", settings.qdrant_url)
    return ServerIndex(settings.qdrant_url, settings.qdrant_api_key.get_secret_value(), collection)


async def ended(task: asyncio.Task[None]) -> None:
    """End a task that runs until it is cancelled."""
    task.cancel()
    await asyncio.wait({task})


async def opened_embedder(settings: Settings) -> Embedder:
    """The embedder, or one that refuses every call where the local model is not installed.

    Drafts need no vectors, so that one is an error in the log and no end. Raises
    ConfigurationError for settings that cannot be used.
    """
    try:
        return await open_embedder(settings)
    except EmbedderMissing as err:
        log.error("embedding model missing", extra={"problem": str(err)})
        return AbsentEmbedder(settings.embedding_model, settings.embedding_dimensions, err)


class AbsentEmbedder:
    """Stands where an `Embedder` should be, and says at every call why there is none."""

    def __init__(self, model: str, dimensions: int, problem: EmbedderMissing) -> None:
        self.model = model
        self.dimensions = dimensions
        self._problem = problem.problem

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises EmbedderMissing."""
        raise EmbedderMissing(self.model, self._problem)

    async def close(self) -> None:
        """There is nothing to close."""
