"""Recorders: what is counted under which name, and that nothing is where nothing shall be."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from shoal_common.testing.clock import FakeClock
from shoal_entropy_drafter.cache.base import CacheOff, CacheStats
from shoal_entropy_drafter.errors import EmbeddingFailed
from shoal_entropy_drafter.metrics import (
    MeasuredEmbedder,
    NullRecorder,
    PrometheusRecorder,
    Recorder,
    watch_entries,
)

from .fleet_fakes import FakeEmbedder

PREFIX = "shoal_entropy_drafter_"


def everything(recorder: Recorder) -> None:
    """One call of each kind."""
    with recorder.observed("Answer"), recorder.answering():
        recorder.tokens_drafted([0.1, 2.5], 3)
        recorder.judged("escalate", "window", 1.2)
        recorder.decided("escalate", 0.25)
        recorder.draft_ended("escalated", "window", 3)
    recorder.not_cacheable("tools")
    recorder.entries_counted(7)
    recorder.looked_up("guarded", 0.003)
    recorder.failed("redis")
    recorder.stored()
    recorder.embedded("client", "OK", 2, 0.01)


def test_everything_is_counted_under_closed_labels() -> None:
    registry = CollectorRegistry()
    everything(PrometheusRecorder(registry))
    wanted = {
        ("drafted_tokens_total", ()): 3,
        ("wasted_tokens_total", (("outcome", "escalated"),)): 3,
        ("token_entropy_bits_count", ()): 2,
        ("verdicts_total", (("verdict", "escalate"), ("reason", "window"))): 1,
        ("time_to_verdict_seconds_sum", (("verdict", "escalate"),)): 0.25,
        ("cache_refusals_total", (("reason", "tools"),)): 1,
        ("cache_entries", ()): 7,
        ("cache_lookups_total", (("outcome", "guarded"),)): 1,
        ("cache_lookup_seconds_count", (("outcome", "guarded"),)): 1,
        ("cache_failures_total", (("store", "redis"),)): 1,
        ("cache_stores_total", ()): 1,
        ("embedded_texts_total", (("purpose", "client"),)): 2,
    }
    found = {
        (name, labels): registry.get_sample_value(PREFIX + name, dict(labels))
        for name, labels in wanted
    }
    assert found == wanted


def test_accepted_drafts_waste_nothing() -> None:
    registry = CollectorRegistry()
    PrometheusRecorder(registry).draft_ended("accepted", "", 9)
    assert f"{PREFIX}wasted_tokens_total{{" not in generate_latest(registry).decode()


def test_null_recorder_takes_the_same_calls() -> None:
    everything(NullRecorder())
    public = [name for name in vars(PrometheusRecorder) if not name.startswith("_")]
    assert set(public) <= set(dir(NullRecorder))
    for name in public:
        ours, theirs = getattr(NullRecorder, name), getattr(PrometheusRecorder, name)
        assert inspect.signature(ours) == inspect.signature(theirs), name


class NotedRecorder(NullRecorder):
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.entry_counts: list[int] = []

    def embedded(self, purpose: str, outcome: str, text_count: int, duration_s: float) -> None:
        self.outcomes.append(f"{purpose} {outcome} {text_count}")

    def entries_counted(self, entry_count: int) -> None:
        self.entry_counts.append(entry_count)


async def test_calls_of_the_embedder_are_counted_however_they_end() -> None:
    inner, recorder = FakeEmbedder(), NotedRecorder()
    embedder = MeasuredEmbedder(inner, recorder, "cache")
    assert (embedder.model, embedder.dimensions) == ("fake", 2)
    await embedder.embed(["a", "b"])
    inner.refusal = EmbeddingFailed("fake", "it is away")
    with pytest.raises(EmbeddingFailed):
        await embedder.embed(["a"])
    assert recorder.outcomes == ["cache OK 2", "cache EMBEDDING_FAILED 1"]
    await embedder.close()
    assert inner.is_closed


class CountedCache(CacheOff):
    def __init__(self) -> None:
        self.entry_count = 0

    async def stats(self) -> CacheStats:
        self.entry_count += 1
        return CacheStats(True, self.entry_count, 0)


async def test_entries_are_counted_now_and_then() -> None:
    clock, recorder = FakeClock(), NotedRecorder()
    watching = asyncio.create_task(watch_entries(CountedCache(), recorder, clock, 30.0))
    await clock.advance(65.0)
    watching.cancel()
    await asyncio.wait({watching})
    assert recorder.entry_counts == [1, 2, 3]
