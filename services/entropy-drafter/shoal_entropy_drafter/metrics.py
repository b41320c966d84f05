"""What the entropy-drafter counts, or does not: the recorders behind one Protocol.

Owns the metric objects. Labels come from closed sets, never from ids or texts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Literal, Protocol, TypeAlias

from prometheus_client import CollectorRegistry

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_common.metrics import RequestMetrics, counter, gauge, histogram
from shoal_entropy_drafter import gate
from shoal_entropy_drafter.cache.base import (
    AnswerCache,
    CacheMetrics,
    NoMetrics,
    Outcome,
    Store,
)
from shoal_entropy_drafter.embedder.base import Embedded, Embedder
from shoal_entropy_drafter.question import Refusal

log = logging.getLogger(__name__)

SERVICE = "entropy_drafter"
BITS_BUCKETS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0,
)  # fmt: skip
"""Thresholds in use lie between 0.3 and 2 bits; most tokens of a sure drafter below 0.05."""

DraftOutcome = Literal["accepted", "escalated", "failed", "abandoned"]
"""escalated: by the gate. failed: lost, late, or a tool call. abandoned: nobody listened on."""
VerdictName = Literal["speculate", "recover", "escalate", "accept"]
VerdictReason: TypeAlias = (
    gate.Reason | Literal["timeout", "error", "overloaded", "tool_call", "late"]
)
EmbedFor = Literal["cache", "client"]


class Recorder(CacheMetrics, Protocol):
    """Who counts what the service does; the cache's part is `CacheMetrics`."""

    def observed(self, method: str) -> AbstractContextManager[None]:
        """Count what happens inside as one request."""

    def answering(self) -> AbstractContextManager[object]:
        """An answer is under way."""

    def tokens_drafted(self, doubts: Iterable[float], token_count: int) -> None:
        """token_count: tokens that came. doubts: of those that the gate has seen."""

    def judged(self, verdict: VerdictName, reason: VerdictReason, statistic: float) -> None: ...

    def decided(self, verdict: VerdictName, duration_s: float) -> None:
        """duration_s: from the request to the last verdict."""

    def draft_ended(
        self, outcome: DraftOutcome, reason: VerdictReason, token_count: int
    ) -> None: ...

    def not_cacheable(self, reason: Refusal) -> None: ...

    def entries_counted(self, entry_count: int) -> None: ...

    def embedded(self, purpose: EmbedFor, outcome: str, text_count: int, duration_s: float) -> None:
        """outcome: "OK", or the reason of a ShoalError."""


class NullRecorder(NoMetrics):
    """Counts nothing."""

    def observed(self, method: str) -> AbstractContextManager[None]:
        return nullcontext()

    def answering(self) -> AbstractContextManager[object]:
        return nullcontext()

    def tokens_drafted(self, doubts: Iterable[float], token_count: int) -> None:
        return

    def judged(self, verdict: VerdictName, reason: VerdictReason, statistic: float) -> None:
        return

    def decided(self, verdict: VerdictName, duration_s: float) -> None:
        return

    def draft_ended(self, outcome: DraftOutcome, reason: VerdictReason, token_count: int) -> None:
        return

    def not_cacheable(self, reason: Refusal) -> None:
        return

    def entries_counted(self, entry_count: int) -> None:
        return

    def embedded(self, purpose: EmbedFor, outcome: str, text_count: int, duration_s: float) -> None:
        return


class PrometheusRecorder:
    """Counts on the registry of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = RequestMetrics(registry, SERVICE)
        self._make_drafts(registry)
        self._make_verdicts(registry)
        self._make_cache(registry)
        self._make_embeddings(registry)

    def _make_drafts(self, registry: CollectorRegistry) -> None:
        self._answering = gauge(registry, SERVICE, "answers_in_flight", "Answers under way now.")
        self._drafts = counter(
            registry, SERVICE, "drafts", "Drafts by how they ended.", ("outcome", "reason")
        )
        self._tokens = counter(registry, SERVICE, "drafted_tokens", "Tokens that drafts brought.")
        self._wasted = counter(
            registry, SERVICE, "wasted_tokens", "Tokens of drafts that did not stand.", ("outcome",)
        )

    def _make_verdicts(self, registry: CollectorRegistry) -> None:
        self._entropy = histogram(
            registry,
            SERVICE,
            "token_entropy_bits",
            "What the gate compares of each token (statistic margin: a share).",
            buckets=BITS_BUCKETS,
        )
        self._verdicts = counter(
            registry, SERVICE, "verdicts", "Verdicts on drafts.", ("verdict", "reason")
        )
        self._statistic = histogram(
            registry,
            SERVICE,
            "verdict_statistic_bits",
            "The window's statistic at a verdict (statistic margin: a share).",
            ("verdict",),
            buckets=BITS_BUCKETS,
        )
        self._decision = histogram(
            registry,
            SERVICE,
            "time_to_verdict_seconds",
            "From a request to the verdict that ends its draft.",
            ("verdict",),
        )

    def _make_cache(self, registry: CollectorRegistry) -> None:
        self._lookups = counter(
            registry, SERVICE, "cache_lookups", "Looks into the cache by outcome.", ("outcome",)
        )
        self._lookup_time = histogram(
            registry,
            SERVICE,
            "cache_lookup_seconds",
            "Time of a look into the cache.",
            ("outcome",),
        )
        self._stored = counter(registry, SERVICE, "cache_stores", "Answers that were kept.")
        self._entries = gauge(
            registry, SERVICE, "cache_entries", "Answers kept, as last counted, now and then."
        )
        self._store_failures = counter(
            registry, SERVICE, "cache_failures", "Calls that failed or came too late.", ("store",)
        )
        self._not_cacheable = counter(
            registry,
            SERVICE,
            "cache_refusals",
            "Requests that have no place in the cache, by why.",
            ("reason",),
        )

    def _make_embeddings(self, registry: CollectorRegistry) -> None:
        self._embeddings = counter(
            registry, SERVICE, "embeddings", "Calls of the embedder.", ("purpose", "outcome")
        )
        self._embedded_texts = counter(
            registry, SERVICE, "embedded_texts", "Texts embedded.", ("purpose",)
        )
        self._embedding_time = histogram(
            registry,
            SERVICE,
            "embedding_seconds",
            "Time of one call of the embedder.",
            ("purpose",),
        )

    def observed(self, method: str) -> AbstractContextManager[None]:
        return self._requests.observed(method)

    def answering(self) -> AbstractContextManager[object]:
        return self._answering.track_inprogress()

    def tokens_drafted(self, doubts: Iterable[float], token_count: int) -> None:
        self._tokens.inc(token_count)
        for doubt in doubts:
            self._entropy.observe(doubt)

    def judged(self, verdict: VerdictName, reason: VerdictReason, statistic: float) -> None:
        self._verdicts.labels(verdict, reason).inc()
        self._statistic.labels(verdict).observe(statistic)

    def decided(self, verdict: VerdictName, duration_s: float) -> None:
        self._decision.labels(verdict).observe(duration_s)

    def draft_ended(self, outcome: DraftOutcome, reason: VerdictReason, token_count: int) -> None:
        self._drafts.labels(outcome, reason).inc()
        if outcome != "accepted":
            self._wasted.labels(outcome).inc(token_count)

    def not_cacheable(self, reason: Refusal) -> None:
        self._not_cacheable.labels(reason).inc()

    def entries_counted(self, entry_count: int) -> None:
        self._entries.set(entry_count)

    def looked_up(self, outcome: Outcome, duration_s: float) -> None:
        self._lookups.labels(outcome).inc()
        self._lookup_time.labels(outcome).observe(duration_s)

    def failed(self, store: Store) -> None:
        self._store_failures.labels(store).inc()

    def stored(self) -> None:
        self._stored.inc()

    def embedded(self, purpose: EmbedFor, outcome: str, text_count: int, duration_s: float) -> None:
        self._embeddings.labels(purpose, outcome).inc()
        self._embedding_time.labels(purpose).observe(duration_s)
        if outcome == "OK":
            self._embedded_texts.labels(purpose).inc(text_count)


class MeasuredEmbedder:
    """An `Embedder` whose calls are counted under what they are for."""

    def __init__(self, inner: Embedder, recorder: Recorder, purpose: EmbedFor) -> None:
        self._inner = inner
        self._recorder = recorder
        self._purpose: EmbedFor = purpose

    @property
    def model(self) -> str:
        return self._inner.model

    @property
    def dimensions(self) -> int:
        return self._inner.dimensions

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder.embed`."""
        began_at = perf_counter()
        outcome = "CANCELLED"
        try:
            done = await self._inner.embed(texts)
            outcome = "OK"
            return done
        except ShoalError as err:
            outcome = err.reason
            raise
        finally:
            duration_s = perf_counter() - began_at
            self._recorder.embedded(self._purpose, outcome, len(texts), duration_s)

    async def close(self) -> None:
        """Close the embedder inside."""
        await self._inner.close()


async def watch_entries(
    cache: AnswerCache, recorder: Recorder, clock: Clock, interval_s: float = 30.0
) -> None:
    """Count now and then what the cache holds, until cancelled."""
    while True:
        try:
            recorder.entries_counted((await cache.stats()).entry_count)
        except Exception:
            log.exception("counting the cache's entries failed")
        await clock.sleep(interval_s)
