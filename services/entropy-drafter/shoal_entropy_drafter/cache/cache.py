"""The semantic cache: answers that were given before to what is asked again.

First the same question to the letter, by its key; then the nearest ones of its scope by their
vectors, of which the first is taken that asks the same by its words, too. Owns the budget of a
look-up, and that a store that is away costs nothing. Where one fails, requests go on without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, Overloaded, ShoalError
from shoal_entropy_drafter.cache.base import (
    CacheMetrics,
    CacheStats,
    Hit,
    KeptAnswer,
    Layer,
    Lookup,
    Match,
    Outcome,
    Point,
    Store,
    Vector,
    VectorIndex,
)
from shoal_entropy_drafter.cache.outage import Outage
from shoal_entropy_drafter.cache.records import Record, Records, id_of, record_of
from shoal_entropy_drafter.embedder.base import Embedder
from shoal_entropy_drafter.errors import CacheStoreAway, CollectionRefused
from shoal_entropy_drafter.question import Question

log = logging.getLogger(__name__)
T = TypeVar("T")

CANDIDATE_COUNT = 4
"""Nearest questions whose words are compared."""
STORE_TIMEOUT_S = 5.0
STORES_MAX = 64
"""Answers being kept at once; more are not kept."""
ANSWER_CHARACTERS_MAX = 262_144
"""Longer answers are not kept."""
SWEEP_INTERVAL_S = 60.0
_STALE_MAX = 1024


@dataclass(frozen=True)
class CacheRules:
    """similarity_min: least cosine of two questions. budget_s: longest that a look-up may take."""

    similarity_min: float = 0.95
    ttl_s: int = 3600
    budget_s: float = 0.05


@dataclass
class _Search:
    """How far a look-up has come, for when its time is up."""

    asked: Store = "redis"
    vector: Vector | None = field(default=None, repr=False)


class _Skipped(Exception):
    """A store was not asked, or gave nothing; the look-up ends here."""


class SemanticCache:
    """Answers by their questions; never one across tenants or scopes.

    same: why two texts do not ask the same, "" where they do (`guard.difference`). The records'
    Redis client is the caller's; index and embedder are, too, but for `start` and `close` of the
    index.
    """

    def __init__(
        self,
        rules: CacheRules,
        records: Records,
        index: VectorIndex,
        embedder: Embedder,
        same: Callable[[str, str], str],
        clock: Clock,
        metrics: CacheMetrics,
    ) -> None:
        self._rules = rules
        self._records = records
        self._index = index
        self._embedder = embedder
        self._same = same
        self._clock = clock
        self._metrics = metrics
        stores: tuple[Store, ...] = ("redis", "qdrant", "embedder")
        self._outages = {store: Outage(store, clock) for store in stores}
        self._counts: dict[Outcome, int] = {}
        self._storing_count = 0
        self._stale: set[str] = set()
        self._behind: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    async def start(self) -> None:
        """Open the index. A store that is away is tried again later; nothing waits for it.

        Raises CollectionRefused where the collection is not the one that the settings ask for.
        """
        try:
            await self._index.start()
        except CacheStoreAway as err:
            self._metrics.failed("qdrant")
            self._outages["qdrant"].begin(err.problem)

    async def look_up(self, question: Question) -> Lookup:
        """The kept answer to `question`, within the budget. Never raises but for cancellation."""
        began = self._clock.monotonic()
        search = _Search()
        try:
            async with asyncio.timeout(self._rules.budget_s):
                found = await self._find(question, search)
        except TimeoutError:
            budget_ms = self._rules.budget_s * 1000
            self._fail(search.asked, f"no answer within cache_timeout_ms, {budget_ms:g} ms")
            found = Lookup("failed", vector=search.vector)
        except _Skipped:
            found = Lookup("failed", vector=search.vector)
        self._counts[found.outcome] = self._counts.get(found.outcome, 0) + 1
        self._metrics.looked_up(found.outcome, self._clock.monotonic() - began)
        return found

    async def store(self, question: Question, vector: Vector | None, answer: KeptAnswer) -> bool:
        """Keep an answer, in place of an older one to the same question.

        vector: what `look_up` gave; made anew without. Whoever calls waits for it: nobody's tokens
        do. Gives False where the answer is not kept: a store is away, too many are being kept at
        once, or it is empty or beyond `ANSWER_CHARACTERS_MAX`.
        """
        is_fit = answer.text.strip() and len(answer.text) <= ANSWER_CHARACTERS_MAX
        if not is_fit or self._storing_count >= STORES_MAX:
            return False
        search = _Search(vector=vector)
        self._storing_count += 1
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await self._keep(question, search, answer)
        except TimeoutError:
            self._fail(search.asked, f"no answer in {STORE_TIMEOUT_S:g} s")
        except _Skipped:
            pass
        finally:
            self._storing_count -= 1
        return False

    async def forget(self, tenant: str = "", model: str = "") -> int:
        """Let go of that tenant's and model's answers, "" for any; says how many there were.

        What is being kept at the same time may stay. Raises CacheStoreAway where a store does not
        answer: then some may be left.
        """
        await self._index.start()
        count = await self._records.forget(tenant, model)
        await self._index.delete_where(tenant=tenant, model=model)
        return count

    async def stats(self) -> CacheStats:
        """What is kept, and how look-ups ended since the process began."""
        entry_count = oldest_age_s = 0
        search = _Search()
        is_ready = self._index.is_started
        try:
            entry_count = await self._ask(search, "redis", self._records.count)
            oldest_age_s = await self._ask(search, "redis", self._records.oldest_age_s)
        except _Skipped:
            is_ready = False
        return CacheStats(
            is_ready and not any(outage.is_on for outage in self._outages.values()),
            entry_count,
            oldest_age_s,
            exact_hit_count=self._counts.get("exact", 0),
            semantic_hit_count=self._counts.get("semantic", 0),
            miss_count=self._counts.get("miss", 0),
            guarded_count=self._counts.get("guarded", 0),
            failure_count=self._counts.get("failed", 0),
        )

    async def run(self) -> None:
        """Let go of what has expired, every `SWEEP_INTERVAL_S`, until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_INTERVAL_S)
            try:
                await self.sweep()
            except CacheStoreAway as err:
                # The next look-up finds out for itself; a sweep may be late.
                self._metrics.failed("redis" if err.store == "redis" else "qdrant")
            except Exception:
                log.exception("sweep of the cache failed")

    async def sweep(self) -> None:
        """Let go of what has expired. Raises CacheStoreAway."""
        await self._index.start()
        await self._index.delete_where(expired_at=int(self._clock.time()))
        await self._records.sweep()
        await self._index.tidy()

    async def settled(self) -> None:
        """Wait until nothing is done behind the look-ups."""
        while self._behind:
            await asyncio.wait(self._behind.values())

    async def close(self) -> None:
        """Let go of the index; look-ups find nothing from now on."""
        self._is_closed = True
        for task in self._behind.values():
            task.cancel()
        await self.settled()
        try:
            await self._index.close()
        except CacheStoreAway as err:
            log.warning("cache not closed well", extra={"problem": err.problem})

    async def _find(self, question: Question, search: _Search) -> Lookup:
        own = id_of(question)
        (record,) = await self._ask(search, "redis", lambda: self._records.read([own]))
        if record and record.exact_key == question.exact_key and record.may_answer(question):
            return Lookup("exact", self._hit(record, 1.0, "exact"))
        self._need_index()
        vector = await self._vector(question, search)
        if vector is None:
            return Lookup("miss")
        matches = await self._ask(search, "qdrant", lambda: self._nearest(vector, question.scope))
        ids = [match.id for match in matches]
        records = await self._ask(search, "redis", lambda: self._records.read(ids))
        return self._choose(question, vector, list(zip(matches, records, strict=True)))

    def _choose(
        self, question: Question, vector: Vector, found: Sequence[tuple[Match, Record | None]]
    ) -> Lookup:
        self._discard([match.id for match, record in found if record is None])
        near = [(m, r) for m, r in found if r is not None and r.may_answer(question)]
        for match, record in near:
            if not self._same(record.question, question.text):
                return Lookup("semantic", self._hit(record, match.similarity, "semantic"), vector)
        return Lookup("guarded" if near else "miss", vector=vector)

    def _hit(self, record: Record, similarity: float, layer: Layer) -> Hit:
        age_s = max(0, int(self._clock.time()) - record.created_at)
        return Hit(record.answer(), similarity, age_s, layer)

    async def _nearest(self, vector: Vector, scope: str) -> list[Match]:
        least = self._rules.similarity_min
        return await self._index.search(vector, scope, CANDIDATE_COUNT, least)

    async def _vector(self, question: Question, search: _Search) -> Vector | None:
        """None for a text that cannot be embedded at all."""
        if search.vector is None:
            texts = [question.text]
            try:
                embedded = await self._ask(search, "embedder", lambda: self._embedder.embed(texts))
            except InvalidRequest:
                return None
            search.vector = embedded.vectors[0]
        return search.vector

    async def _keep(self, question: Question, search: _Search, answer: KeptAnswer) -> bool:
        own = id_of(question)
        record = record_of(question, answer, int(self._clock.time()), self._rules.ttl_s)
        # Before the point: a point without its record is taken for a stale one.
        left = await self._ask(search, "redis", lambda: self._records.write(own, record))
        self._metrics.stored()
        try:
            self._need_index()
            vector = await self._vector(question, search)
            if vector is not None:
                point = Point(
                    own, vector, record.scope, record.tenant, record.model, record.expires_at
                )
                await self._ask(search, "qdrant", lambda: self._put(point, left))
        except _Skipped:
            # Still found by the same question to the letter.
            pass
        return True

    async def _put(self, point: Point, left: Sequence[str]) -> None:
        await self._index.upsert(point)
        await self._index.delete(left)

    def _need_index(self) -> None:
        """Raises _Skipped while the index is not open; it is tried behind the requests then.

        Opening takes longer than a look-up may.
        """
        if not self._index.is_started:
            if "start" not in self._behind and self._outages["qdrant"].may_ask():
                self._do_behind("start", self._start_index())
            raise _Skipped

    async def _start_index(self) -> None:
        try:
            await self._index.start()
        except CacheStoreAway as err:
            self._fail("qdrant", err.problem)
        except CollectionRefused as err:
            # The collection became another one while the service was running.
            log.error("cache cannot use its collection", extra={"problem": str(err)})
            self._outages["qdrant"].begin(str(err))
        else:
            self._outages["qdrant"].answered()

    async def _ask(self, search: _Search, store: Store, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` of a store gives. Raises _Skipped where it is away, or InvalidRequest."""
        search.asked = store
        if not self._outages[store].may_ask():
            raise _Skipped
        began = self._clock.monotonic()
        try:
            answer = await call()
        except InvalidRequest:
            raise
        except Overloaded as err:
            # It is there, and has enough to do.
            self._metrics.failed(store)
            raise _Skipped from err
        except ShoalError as err:
            self._fail(store, err.problem if isinstance(err, CacheStoreAway) else str(err))
            raise _Skipped from err
        # An answer that a look-up would not have waited for does not end an outage.
        if self._clock.monotonic() - began <= self._rules.budget_s:
            self._outages[store].answered()
        return answer

    def _fail(self, store: Store, problem: str) -> None:
        self._metrics.failed(store)
        self._outages[store].failed(problem)

    def _discard(self, ids: Sequence[str]) -> None:
        """Let go of points whose records are gone, behind the look-up that came upon them."""
        # The sweep comes upon the rest by their time.
        self._stale.update(ids[: _STALE_MAX - len(self._stale)])
        if self._stale and "discard" not in self._behind:
            self._do_behind("discard", self._discard_stale())

    async def _discard_stale(self) -> None:
        while self._stale:
            ids = list(self._stale)
            self._stale.clear()
            try:
                await self._index.delete(ids)
            except CacheStoreAway as err:
                self._fail("qdrant", err.problem)
                return

    def _do_behind(self, name: str, work: Coroutine[None, None, None]) -> None:
        """One task of each name at a time; `close` ends it."""
        if self._is_closed:
            work.close()
            return
        task = asyncio.create_task(work)
        self._behind[name] = task
        task.add_done_callback(lambda _: self._behind.pop(name))
