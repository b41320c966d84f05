"""What is looked up and kept, with a cache that only takes notes, and with the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2 as pb
from shoal_common.testing.redis import RedisProcess, start_redis
from shoal_entropy_drafter.cache.base import (
    CacheOff,
    CacheStats,
    Hit,
    KeptAnswer,
    Lookup,
    Vector,
)
from shoal_entropy_drafter.metrics import NullRecorder
from shoal_entropy_drafter.question import Question, QuestionRules, Refusal
from shoal_entropy_drafter.remembering import Memory

from .fleet_fakes import SURE, Fleet, request_of, running_fleet, task_of

VECTOR = np.array([1, 0], dtype=np.float32)
KEPT = KeptAnswer("Paris.", "drafter", 9, 2)


class NotedCache(CacheOff):
    """Gives `found`, and notes what it is asked."""

    def __init__(self) -> None:
        self.found = Lookup("miss", vector=VECTOR)
        self.is_keeping = True
        self.asked: list[Question] = []
        self.stored: list[tuple[Question, Vector | None, KeptAnswer]] = []
        self.forgotten: list[tuple[str, str]] = []

    async def look_up(self, question: Question) -> Lookup:
        self.asked.append(question)
        return self.found

    async def store(self, question: Question, vector: Vector | None, answer: KeptAnswer) -> bool:
        self.stored.append((question, vector, answer))
        return self.is_keeping

    async def forget(self, tenant: str = "", model: str = "") -> int:
        self.forgotten.append((tenant, model))
        return 3

    async def stats(self) -> CacheStats:
        return CacheStats(True, 0, 0)


class NotedRefusals(NullRecorder):
    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    def not_cacheable(self, reason: Refusal) -> None:
        self.refusals.append(reason)


def memory_of(cache: NotedCache, keeps_heavyweight: bool = False, **fields: Any) -> Memory:
    rules = QuestionRules(0.7, 1, frozenset(["secretive"]))
    recorder = fields.pop("recorder", NullRecorder())
    return Memory(cache, rules, recorder, keeps_heavyweight, **fields)


def answered(request_id: str = "q1", task: Any = None, **fields: Any) -> pb.RememberRequest:
    values = {"text": "Paris.", "answered_by": "drafter"} | fields
    return pb.RememberRequest(
        request_id=request_id, task=task if task is not None else task_of(), **values
    )


async def test_what_was_looked_up_is_not_embedded_again() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    assert await memory.look_up(request_of()) is None
    assert await memory.remember(answered(prompt_token_count=9, completion_token_count=2))
    question, vector, answer = cache.stored[0]
    assert question == cache.asked[0]
    assert vector is VECTOR
    assert answer == KEPT


async def test_vector_of_another_question_is_not_taken() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    await memory.look_up(request_of())
    assert await memory.remember(answered(task=task_of("And of Spain?")))
    assert cache.stored[0][1] is None


async def test_answer_is_kept_once() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    assert await memory.remember(answered())
    assert await memory.remember(answered(text="Something else."))
    assert len(cache.stored) == 1


async def test_what_failed_to_be_kept_may_be_tried_again() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    cache.is_keeping = False
    assert not await memory.remember(answered())
    cache.is_keeping = True
    assert await memory.remember(answered())


async def test_request_that_comes_again_under_its_id_is_a_new_one() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    assert await memory.remember(answered())
    await memory.look_up(request_of())
    assert await memory.remember(answered(text="Something else."))
    assert len(cache.stored) == 2


async def test_hit_is_told_with_all_that_is_known_of_it() -> None:
    cache = NotedCache()
    cache.found = Lookup("semantic", Hit(KEPT, 0.97, 12, "semantic"))
    hit = await memory_of(cache).look_up(request_of())
    assert hit is not None
    assert hit == pb.CacheHit(
        text="Paris.",
        similarity=hit.similarity,
        age_s=12,
        layer=pb.CACHE_LAYER_SEMANTIC,
        prompt_token_count=9,
        completion_token_count=2,
        answered_by="drafter",
    )
    assert hit.similarity == pytest.approx(0.97)


async def test_refresh_looks_nothing_up_and_keeps() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    assert await memory.look_up(request_of(cache_use=pb.CACHE_USE_REFRESH)) is None
    assert not cache.asked
    assert await memory.remember(answered())


async def test_without_the_cache_nothing_is_looked_up_nor_kept() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    assert await memory.look_up(request_of(cache_use=pb.CACHE_USE_NONE)) is None
    assert not await memory.remember(answered())
    assert not cache.asked
    assert not cache.stored


async def test_heavyweights_answers_are_kept_where_that_is_wanted() -> None:
    cache = NotedCache()
    assert not await memory_of(cache).remember(answered(answered_by="heavyweight"))
    assert await memory_of(cache, True).remember(answered(answered_by="heavyweight"))


async def test_what_has_no_place_in_the_cache_is_passed_over_and_counted() -> None:
    cache, recorder = NotedCache(), NotedRefusals()
    memory = memory_of(cache, recorder=recorder)
    for task in (task_of(tenant="secretive"), task_of(tools=[chat_pb2.Tool(name="f")])):
        assert await memory.look_up(request_of(task=task)) is None
        assert not await memory.remember(answered(task=task))
    assert recorder.refusals == ["tenant", "tenant", "tools", "tools"]
    assert not await memory.remember(answered("q3", text=""))
    assert not cache.stored


async def test_forgetting_drops_what_was_read_and_does_not_raise_the_dead() -> None:
    cache = NotedCache()
    memory = memory_of(cache)
    await memory.look_up(request_of("q1"))
    await memory.remember(answered("q2"))
    assert await memory.forget(pb.ForgetRequest(tenant="t", model="m")) == 3
    assert cache.forgotten == [("t", "m")]
    # Said again, it is not kept again.
    assert await memory.remember(answered("q2"))
    assert len(cache.stored) == 1
    assert await memory.remember(answered("q1"))
    assert cache.stored[1][1] is None


async def test_notes_are_bounded() -> None:
    cache = NotedCache()
    memory = memory_of(cache, notes_max=2)
    for request_id in ("q1", "q2", "q3"):
        await memory.look_up(request_of(request_id))
    await memory.remember(answered("q1"))
    await memory.remember(answered("q3"))
    assert [stored[1] is VECTOR for stored in cache.stored] == [False, True]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with start_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
async def clean(redis: RedisProcess) -> Any:
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    return redis


async def ask(fleet: Fleet, request_id: str, text: str) -> list[Any]:
    return await fleet.answer(request_of(request_id, task_of(text)))


async def test_accepted_answer_is_given_again(clean: RedisProcess, tmp_path: Path) -> None:
    async with running_fleet(
        tmp_path, redis_url=clean.url, embedding_dimensions=2, cache_timeout_ms=2000
    ) as fleet:
        fleet.stage.script = [SURE] * 4
        question = "What is the capital of France?"
        assert (await ask(fleet, "q1", question))[-1].judgement.verdict == pb.VERDICT_ACCEPT
        remembered = answered("q1", task_of(question), prompt_token_count=9)
        assert (await fleet.stub.Remember(remembered)).is_kept
        assert (await fleet.stub.Remember(remembered)).is_kept
        # Once for the look-up, never for the keeping.
        assert fleet.embedder.texts == [[question]]
        (hit,) = await ask(fleet, "q2", "  " + question)
        assert hit.cache_hit.text == "Paris."
        assert hit.cache_hit.layer == pb.CACHE_LAYER_EXACT
        assert hit.cache_hit.prompt_token_count == 9
        other = await ask(fleet, "q3", "What is the capital of Gambia?")
        assert other[-1].judgement.verdict == pb.VERDICT_ACCEPT
        cache = await fleet.stub.GetCache(pb.GetCacheRequest())
        assert (cache.is_enabled, cache.is_ready, cache.entry_count) == (True, True, 1)
        assert (cache.exact_hit_count, cache.guarded_count) == (1, 1)
        assert (cache.ttl_s, cache.vector_store) == (3600, "edge")
        assert (await fleet.stub.Forget(pb.ForgetRequest())).forgotten_count == 1
        assert (await ask(fleet, "q4", question))[-1].HasField("judgement")


async def test_ungated_drafts_leave_the_cache_alone(clean: RedisProcess, tmp_path: Path) -> None:
    async with running_fleet(tmp_path, redis_url=clean.url, embedding_dimensions=2) as fleet:
        fleet.stage.script = [SURE] * 4
        await fleet.answer(request_of(is_ungated=True))
        assert not fleet.embedder.texts


async def test_redis_that_is_down_at_start_stops_nothing(tmp_path: Path) -> None:
    async with running_fleet(
        tmp_path, redis_url="redis://127.0.0.1:1/0", embedding_dimensions=2
    ) as fleet:
        fleet.stage.script = [SURE] * 4
        events = await fleet.answer(request_of())
        assert events[-1].judgement.verdict == pb.VERDICT_ACCEPT
        assert not (await fleet.stub.Remember(answered())).is_kept
        cache = await fleet.stub.GetCache(pb.GetCacheRequest())
        assert (cache.is_enabled, cache.is_ready) == (True, False)
