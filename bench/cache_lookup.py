"""How long a look into the semantic cache takes with 100,000 answers kept, on one core.

Everything runs as in the entropy-drafter: the folder of vectors in the process, the embedding model
in the process, a real Redis beside it, all of them on one core. Searches through the cells and
through the whole scope take turns. Queries lie at a cosine of 0.97 to a kept vector.

    python -m bench.cache_lookup
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.conditions import Conditions
from bench.figures import Figure, Report, at_least, at_most, ratio_figure
from bench.rounds import Sample, as_json, interleaved, median, ratio
from bench.running import Measure, run_program
from shoal_common.clock import SystemClock
from shoal_common.redis_client import connect
from shoal_common.testing.redis import start_redis
from shoal_entropy_drafter.cache.base import KeptAnswer, NoMetrics, Outcome, Point
from shoal_entropy_drafter.cache.cache import CANDIDATE_COUNT, CacheRules, SemanticCache
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.edge import EdgeIndex
from shoal_entropy_drafter.cache.records import Records, record_of
from shoal_entropy_drafter.cache.shard import Shard
from shoal_entropy_drafter.embedder.base import Embedder
from shoal_entropy_drafter.embedder.opening import open_embedder
from shoal_entropy_drafter.guard import difference
from shoal_entropy_drafter.question import Question
from shoal_entropy_drafter.settings import Settings

DIMENSIONS = 384
SCOPE_COUNT = 1000
SIMILARITY_MIN = 0.95
QUERY_COSINE = 0.97
BATCH = 500
SEED = 7
TOPIC_COUNT = 200
LOOKUP_MS_MAX = 10.0
ASKED_COUNT = 200
BUDGET_MS = 50.0
# Look-ups are timed to their end here; how many would have been given up is a figure of its own.
PATIENCE_S = 30.0
TTL_S = 86_400
ANSWER = KeptAnswer("It depends on the weather and on the season. " * 8, "drafter", 40, 90)
Vectors = NDArray[np.float32]


def entry_count(conditions: Conditions) -> int:
    return 5_000 if conditions.is_quick else 100_000


def even_vectors(count: int, rng: np.random.Generator) -> Vectors:
    """In all directions alike: (count, DIMENSIONS), rows of length 1."""
    return _unit(rng.standard_normal((count, DIMENSIONS)))


def clustered_vectors(count: int, rng: np.random.Generator) -> Vectors:
    """As sentences lie: a common direction, some topics; cosines of 0.2 and within a topic 0.56."""
    common = _unit(rng.standard_normal((1, DIMENSIONS)))
    topics = _unit(rng.standard_normal((TOPIC_COUNT, DIMENSIONS)))
    own = _unit(rng.standard_normal((count, DIMENSIONS)))
    chosen = topics[rng.integers(TOPIC_COUNT, size=count)]
    return _unit(0.45 * common + 0.6 * chosen + 0.66 * own)


def near(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """One of cosine `QUERY_COSINE` to each."""
    aside = rng.standard_normal(vectors.shape)
    aside -= np.sum(aside * vectors, axis=1, keepdims=True) * vectors
    return _unit(QUERY_COSINE * vectors + np.sqrt(1 - QUERY_COSINE**2) * _unit(aside))


async def one_scope(report: Report, conditions: Conditions) -> None:
    rng = np.random.default_rng(SEED)
    vectors = even_vectors(entry_count(conditions), rng)
    await measure_search(report, conditions, vectors, ["scope"] * len(vectors))


async def one_scope_of_topics(report: Report, conditions: Conditions) -> None:
    rng = np.random.default_rng(SEED)
    vectors = clustered_vectors(entry_count(conditions), rng)
    await measure_search(report, conditions, vectors, ["scope"] * len(vectors))


async def many_scopes(report: Report, conditions: Conditions) -> None:
    rng = np.random.default_rng(SEED)
    vectors = even_vectors(entry_count(conditions), rng)
    scopes = [f"{number % SCOPE_COUNT:064d}" for number in range(len(vectors))]
    await measure_search(report, conditions, vectors, scopes)


async def measure_search(
    report: Report, conditions: Conditions, vectors: Vectors, scopes: Sequence[str]
) -> None:
    """Searches alone, through the cells and through the whole scope in turns."""
    rng = np.random.default_rng(SEED + 1)
    with tempfile.TemporaryDirectory() as folder:
        async with filled_index(Path(folder) / "vectors", vectors, scopes, report) as index:
            found: list[bool] = []

            async def through(similarity_min: float) -> Sample:
                chosen = rng.integers(len(vectors), size=100)
                asked = near(vectors[chosen], rng)
                watch = Stopwatch()
                for number, vector in zip(chosen, asked, strict=True):
                    scope = scopes[number]
                    with watch.event():
                        hits = await index.search(vector, scope, CANDIDATE_COUNT, similarity_min)
                    if similarity_min > 0:
                        found.append(bool(hits) and hits[0].id == _id(int(number)))
                return watch.sample()

            variants = {
                "cells": lambda: through(SIMILARITY_MIN),
                "whole scope": lambda: through(-1.0),
            }
            samples = await interleaved(variants, conditions.rounds)
    report.details |= {"entry_count": len(vectors), "rounds": as_json(samples)}
    cells = samples["cells"]
    report.add(
        Figure("search p50", median(cells), "ms", at_most(LOOKUP_MS_MAX)),
        Figure("search p95", _detail(cells, "p95"), "ms"),
        Figure("search, CPU p50", _detail(cells, "cpu_p50"), "ms"),
        Figure("search of the whole scope p50", median(samples["whole scope"]), "ms"),
        ratio_figure("whole scope to cells", ratio(samples["whole scope"], cells)),
        Figure("neighbours found", sum(found) / len(found), "of 1", at_least(0.98)),
    )


async def lookups(report: Report, conditions: Conditions) -> None:
    """Whole look-ups: key, embedding, search, records, words."""
    rng = np.random.default_rng(SEED)
    vectors = clustered_vectors(entry_count(conditions), rng)
    embedder = await open_embedder(Settings())
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "redis").mkdir()
        scopes = ["scope"] * len(vectors)
        with start_redis(where / "redis") as redis:
            async with (
                filled_index(where / "vectors", vectors, scopes, report) as index,
                kept_records(redis.url, len(vectors)) as records,
            ):
                cache = SemanticCache(
                    CacheRules(SIMILARITY_MIN, TTL_S, PATIENCE_S),
                    records,
                    index,
                    embedder,
                    difference,
                    SystemClock(),
                    NoMetrics(),
                )
                await measure_lookups(report, conditions, cache, embedder)
    await embedder.close()


async def measure_lookups(
    report: Report, conditions: Conditions, cache: SemanticCache, embedder: Embedder
) -> None:
    kept = [_question(text) for text in _texts("shoal")]
    for asked in kept:
        assert await cache.store(asked, None, ANSWER)
    variants: Mapping[str, list[Question]] = {
        "exact": kept,
        "semantic": [_question(q.text.lower().replace("?", " ?")) for q in kept],
        "miss": [_question(text) for text in _texts("nowhere")],
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in variants}

    async def ask(name: str) -> Sample:
        watch = Stopwatch()
        for question in variants[name]:
            with watch.event():
                found = await cache.look_up(question)
            outcomes[name].append(found.outcome)
        return watch.sample()

    async def embed() -> Sample:
        watch = Stopwatch()
        for question in variants["miss"]:
            with watch.event():
                await embedder.embed([question.text])
        return watch.sample()

    rounds = {
        "exact": lambda: ask("exact"),
        "semantic": lambda: ask("semantic"),
        "miss": lambda: ask("miss"),
        "embedding alone": embed,
    }
    samples = await interleaved(rounds, conditions.rounds)
    report.details["rounds"] = as_json(samples)
    for name, of_name in samples.items():
        target = at_most(LOOKUP_MS_MAX) if name in ("semantic", "miss") else None
        report.add(Figure(f"{name} p50", median(of_name), "ms", target))
        report.add(Figure(f"{name} p95", _detail(of_name, "p95"), "ms"))
        report.add(Figure(f"{name}, CPU p50", _detail(of_name, "cpu_p50"), "ms"))
        if name in variants:
            late = Figure(f"{name}, beyond the budget", _detail(of_name, "late_share"), "of 1")
            report.add(late)
    for name, seen in outcomes.items():
        as_meant = sum(outcome == name for outcome in seen) / len(seen)
        report.add(Figure(f"{name}, ended so", as_meant, "of 1"))
        report.details[f"outcomes of {name}"] = {one: seen.count(one) for one in sorted(set(seen))}


@asynccontextmanager
async def filled_index(
    folder: Path, vectors: Vectors, scopes: Sequence[str], report: Report
) -> AsyncIterator[EdgeIndex]:
    """A folder with these vectors, point by number."""
    collection = Collection("answers", DIMENSIONS, "all-MiniLM-L6-v2")
    began = time.perf_counter()
    shard = Shard(folder, collection)
    shard.open()
    expires_at = int(time.time()) + TTL_S
    for start in range(0, len(vectors), BATCH):
        numbers = range(start, min(start + BATCH, len(vectors)))
        shard.upsert(
            [Point(_id(n), vectors[n], scopes[n], "tenant", "model", expires_at) for n in numbers]
        )
    shard.close()
    report.details["fill_s"] = round(time.perf_counter() - began, 1)
    index = EdgeIndex(folder, collection, SystemClock())
    began = time.perf_counter()
    await index.start()
    report.add(Figure("opening the folder", time.perf_counter() - began, "s"))
    try:
        yield index
    finally:
        await index.close()


@asynccontextmanager
async def kept_records(url: str, count: int) -> AsyncIterator[Records]:
    """A Redis with a record for every vector."""
    client = connect(url)
    assert client is not None
    records = Records(client, "answers:", 10 * count, SystemClock())
    now = int(time.time())
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        # Fewer at once than there are connections.
        for some in (numbers[i : i + 50] for i in range(0, len(numbers), 50)):
            asked = [_question(f"filler {number}") for number in some]
            writes = [
                records.write(_id(number), record_of(question, ANSWER, now, TTL_S))
                for number, question in zip(some, asked, strict=True)
            ]
            await asyncio.gather(*writes)
    try:
        yield records
    finally:
        await client.aclose()


def _question(text: str) -> Question:
    return Question("tenant", "model", "scope", f"key of {text}", text)


def _texts(topic: str) -> list[str]:
    verbs = ("repair", "describe", "measure", "paint", "sell", "import", "weigh", "insure")
    things = ("boat", "net", "harbour", "lamp", "engine")
    places = ("Lisbon", "Oslo", "Dakar", "Naples", "Perth")
    return [
        f"How do I {verb} the {thing} of the {topic} in {place}?"
        for verb in verbs
        for thing in things
        for place in places
    ][:ASKED_COUNT]


class Stopwatch:
    """What single events take: `with watch.event(): ...`. CPU is of all threads here."""

    def __init__(self) -> None:
        self._wall_ms: list[float] = []
        self._cpu_ms: list[float] = []

    @contextmanager
    def event(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall_ms.append((time.perf_counter() - wall) * 1000)
        self._cpu_ms.append((time.process_time() - cpu) * 1000)

    def sample(self) -> Sample:
        """Its value is the median."""
        p50, p95 = (float(np.quantile(self._wall_ms, share)) for share in (0.5, 0.95))
        details = {
            "p95": p95,
            "cpu_p50": float(np.median(self._cpu_ms)),
            "late_share": float(np.mean(np.array(self._wall_ms) > BUDGET_MS)),
            "count": len(self._wall_ms),
        }
        return Sample(p50, details=details)


def _detail(samples: Sequence[Sample], name: str) -> float:
    return float(np.median([sample.details[name] for sample in samples]))


def _unit(rows: NDArray[np.float64]) -> Vectors:
    scaled: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def _id(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


MEASUREMENTS: Mapping[str, Measure] = {
    "one scope": one_scope,
    "one scope of topics": one_scope_of_topics,
    "many scopes": many_scopes,
    "look-ups": lookups,
}


def main(argv: Sequence[str] | None = None) -> None:
    # Before there are threads: they and Redis get the same core.
    process = psutil.Process()
    process.cpu_affinity((process.cpu_affinity() or [0])[-1:])
    run_program("cache-lookup", "Looks into the semantic cache.", MEASUREMENTS, argv)


if __name__ == "__main__":
    main()
