"""A cache with everything around it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from redis import asyncio as redis

from shoal_common.testing import FakeClock
from shoal_entropy_drafter.cache.base import KeptAnswer, Outcome, Store, VectorIndex
from shoal_entropy_drafter.cache.cache import CacheRules, SemanticCache
from shoal_entropy_drafter.cache.records import Records
from shoal_entropy_drafter.embedder.base import Embedded

from .conftest import SIZE, collection, question
from .memory_index import MemoryIndex, Shelf

ANSWER = KeptAnswer("a school of fish", "drafter", 7, 4)
TTL_S = 600
# Real time, and plenty: only where something hangs is it used up.
BUDGET_S = 10.0


class WordsEmbedder:
    """Texts of the same words are alike. error: raised instead. may_answer: cleared, it hangs."""

    model = "words"
    dimensions = SIZE

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.call_count = 0

    async def embed(self, texts: Sequence[str]) -> Embedded:
        self.call_count += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        vectors = np.stack([self._vector(text) for text in texts])
        return Embedded(vectors, len(texts))

    async def close(self) -> None:
        return

    def _vector(self, text: str) -> np.ndarray:
        vector = np.zeros(SIZE, dtype=np.float32)
        for word in text.lower().replace("?", "").split():
            vector += np.random.RandomState(sum(word.encode())).standard_normal(SIZE)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def same_numbers(one: str, other: str) -> str:
    """A guard that knows of digits alone."""
    digits = ["".join(c for c in text if c.isdigit()) for text in (one, other)]
    return "" if digits[0] == digits[1] else "number"


@dataclass
class Counted:
    """Metrics as lists."""

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[Store] = field(default_factory=list)
    stored_count: int = 0

    def looked_up(self, outcome: Outcome, duration_s: float) -> None:
        self.outcomes.append(outcome)

    def failed(self, store: Store) -> None:
        self.failures.append(store)

    def stored(self) -> None:
        self.stored_count += 1


class Site:
    """A cache on a real Redis, with an index in memory unless another is put in its place."""

    def __init__(
        self,
        client: redis.Redis,
        budget_s: float = BUDGET_S,
        entries_max: int = 100,
        index: VectorIndex | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.index = MemoryIndex(Shelf(), collection())
        self.embedder = WordsEmbedder()
        self.metrics = Counted()
        self.records = Records(client, "answers:", entries_max, self.clock)
        self.cache = SemanticCache(
            CacheRules(0.95, TTL_S, budget_s),
            self.records,
            index or self.index,
            self.embedder,
            same_numbers,
            self.clock,
            self.metrics,
        )

    async def keep(self, text: str, answer: str = ANSWER.text, **where: str) -> bool:
        kept = KeptAnswer(answer, "drafter", 7, 4)
        return await self.cache.store(question(text, **where), None, kept)

    async def ask(self, text: str, **where: str) -> tuple[Outcome, str]:
        found = await self.cache.look_up(question(text, **where))
        return found.outcome, found.hit.answer.text if found.hit else ""
