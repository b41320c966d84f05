"""An answer never leaves its tenant and scope, whatever is asked in which order."""

from __future__ import annotations

import random

import pytest
from redis import asyncio as redis

from shoal_entropy_drafter.cache.base import KeptAnswer
from shoal_entropy_drafter.question import Question

from .site import Site

TEXTS = [
    "what is a shoal",
    "a shoal is what",
    "is a shoal what",
    "add 1 and 2",
    "add 2 and 1",
    "birds",
]
OPERATION_COUNT = 400


def random_question(rng: random.Random) -> Question:
    """Few tenants, models and scopes, so that they meet; keys alike in different scopes."""
    tenant, model = rng.choice(["", "a", "ab", "b"]), rng.choice(["m", "am"])
    # A scope holds tenant and model, but nothing here relies on it: some are shared by force.
    scope = rng.choice([f"{tenant}/{model}", f"{tenant}/{model}/warm", "shared"])
    text = rng.choice(TEXTS)
    return Question(tenant, model, scope, f"key of {text}", text)


@pytest.mark.parametrize("run", range(2))
async def test_answers_stay_with_their_tenant_and_scope(client: redis.Redis, run: int) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    site = Site(client, entries_max=30)
    await site.cache.start()
    hit_count = 0
    for _ in range(OPERATION_COUNT):
        asked = random_question(rng)
        chance = rng.random()
        if chance < 0.01:
            await site.cache.forget(asked.tenant, rng.choice(["", asked.model]))
        elif chance < 0.05:
            site.clock.jump(rng.choice([1, 100, 300]))
        elif chance < 0.4:
            answer = KeptAnswer(owner_of(asked), "drafter", 1, 1)
            await site.cache.store(asked, None, answer)
        else:
            found = await site.cache.look_up(asked)
            assert found.outcome != "failed"
            if found.hit is not None:
                hit_count += 1
                assert found.hit.answer.text == owner_of(asked)
    await site.cache.close()
    assert hit_count >= 5


def owner_of(asked: Question) -> str:
    return repr((asked.tenant, asked.model, asked.scope, sorted(set(asked.text) & set("12"))))
