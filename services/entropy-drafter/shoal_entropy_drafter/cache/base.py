"""What the parts of the cache pass to one another, and what an index of vectors keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal_entropy_drafter.question import Question

Vector = NDArray[np.float32]
"""One vector, (D,)."""
Outcome = Literal["exact", "semantic", "miss", "guarded", "off", "failed"]
Layer = Literal["exact", "semantic"]
Store = Literal["redis", "qdrant", "embedder"]


@dataclass(frozen=True)
class Point:
    """A question's vector. id: a UUID. expires_at: whole seconds since 1970."""

    id: str
    vector: Vector = field(repr=False)
    scope: str
    tenant: str
    model: str
    expires_at: int


@dataclass(frozen=True)
class Match:
    """A point that was found. similarity: the cosine of the two vectors."""

    id: str
    similarity: float


class VectorIndex(Protocol):
    """Points by their nearness. Its calls raise CacheStoreAway where the store does not answer.

    A cancelled call leaves the store as before it or as after it.
    """

    @property
    def is_started(self) -> bool:
        """The collection is open, as far as is known here."""

    async def start(self) -> None:
        """Open the collection; made first where it does not exist. Twice is once.

        Raises DimensionsDiffer, EmbeddingModelDiffers or CollectionInUse where it cannot be the one
        that was asked for.
        """

    async def upsert(self, point: Point) -> None:
        """Keep it, in place of the one with its id."""

    async def search(
        self, vector: Vector, scope: str, limit: int, similarity_min: float = -1.0
    ) -> list[Match]:
        """The `limit` nearest of that scope, nearest first; of no other scope, ever.

        Only those of `similarity_min` or more, and of these one at the very bound may be missed
        once in fifty times. Points that have expired are found until they are deleted.
        """

    async def delete(self, ids: Sequence[str]) -> None:
        """Let go of them; those that do not exist are passed over."""

    async def delete_where(
        self, *, tenant: str = "", model: str = "", expired_at: int | None = None
    ) -> int:
        """Let go of all that fit every condition given, and say how many they were.

        "" and None ask for nothing. expired_at: points that have expired by that second.
        """

    async def count(self) -> int: ...

    async def tidy(self) -> None:
        """Give back the room of deleted points. May take long, and may be cancelled."""

    async def close(self) -> None:
        """Write everything down and let go. A second call does nothing."""


@dataclass(frozen=True)
class KeptAnswer:
    """An answer that stood, and what it took. answered_by: "drafter" or "heavyweight"."""

    text: str = field(repr=False)
    answered_by: str
    prompt_token_count: int
    completion_token_count: int


@dataclass(frozen=True)
class Hit:
    """A kept answer. similarity: cosine of the two questions, 1 for the same one."""

    answer: KeptAnswer
    similarity: float
    age_s: int
    layer: Layer


@dataclass(frozen=True)
class Lookup:
    """What came of a look into the cache.

    hit: with the outcomes exact and semantic. vector: of the question, where it was made; `store`
    takes it.
    """

    outcome: Outcome
    hit: Hit | None = None
    vector: Vector | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CacheStats:
    """is_ready: both stores and the embedder answer. Hits and the like: since the process began.

    entry_count, oldest_age_s: 0 where Redis does not answer.
    """

    is_ready: bool
    entry_count: int
    oldest_age_s: int
    exact_hit_count: int = 0
    semantic_hit_count: int = 0
    miss_count: int = 0
    guarded_count: int = 0
    failure_count: int = 0


class CacheMetrics(Protocol):
    """Who counts what the cache does."""

    def looked_up(self, outcome: Outcome, duration_s: float) -> None: ...

    def failed(self, store: Store) -> None:
        """One call to that store failed or came too late."""

    def stored(self) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def looked_up(self, outcome: Outcome, duration_s: float) -> None:
        return

    def failed(self, store: Store) -> None:
        return

    def stored(self) -> None:
        return


class AnswerCache(Protocol):
    """Answers by their questions."""

    async def start(self) -> None: ...

    async def look_up(self, question: Question) -> Lookup: ...

    async def store(self, question: Question, vector: Vector | None, answer: KeptAnswer) -> bool:
        """Whether the answer is kept now."""

    async def forget(self, tenant: str = "", model: str = "") -> int:
        """Let go of that tenant's or model's answers, "" for all; says how many."""

    async def stats(self) -> CacheStats: ...

    async def run(self) -> None:
        """Let go of what has expired, now and then, until cancelled."""

    async def close(self) -> None: ...


class CacheOff:
    """A cache that is switched off: finds and keeps nothing."""

    async def start(self) -> None:
        return

    async def look_up(self, question: Question) -> Lookup:
        return Lookup("off")

    async def store(self, question: Question, vector: Vector | None, answer: KeptAnswer) -> bool:
        return False

    async def forget(self, tenant: str = "", model: str = "") -> int:
        return 0

    async def stats(self) -> CacheStats:
        return CacheStats(is_ready=False, entry_count=0, oldest_age_s=0)

    async def run(self) -> None:
        return

    async def close(self) -> None:
        return
