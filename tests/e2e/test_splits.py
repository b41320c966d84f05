"""Both demo models, whole and split, as separate worker processes: the tokens of transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from shoal.common.v1 import chat_pb2
from tests.e2e.driving import SUITE, Driver, prompt_ids
from tests.e2e.fleet import MODELS, Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

DEMO_MODELS = ("drafter", "heavyweight")
SAMPLED = chat_pb2.SamplingSpec(temperature=0.9, top_p=0.95, top_k=50, seed=20_26)
STREAMS_MAX = 8


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda count: f"{count}-stages")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    count: int = request.param
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(
        folder, models=DEMO_MODELS, workers=count, split=count > 1, timeout_s=240
    ) as fleet:
        yield fleet


@pytest.mark.parametrize("model", DEMO_MODELS)
async def test_greedy_tokens_are_those_of_transformers(driver: Driver, model: str) -> None:
    gate = asyncio.Semaphore(STREAMS_MAX)

    async def one(prompt: dict[str, object]) -> list[int]:
        async with gate:
            ids = prompt_ids(MODELS / model, prompt)
            return await driver.generate(model, ids, SUITE["new_tokens"])

    replies = await asyncio.gather(*(one(prompt) for prompt in SUITE["prompts"]))
    for prompt, reply in zip(SUITE["prompts"], replies, strict=True):
        assert reply == prompt["greedy"][model], prompt["id"]
    await driver.until_free()


sampled_before: dict[str, list[int]] = {}


@pytest.mark.parametrize("model", DEMO_MODELS)
async def test_a_seed_draws_the_same_tokens_whatever_the_split(driver: Driver, model: str) -> None:
    ids = prompt_ids(MODELS / model, SUITE["prompts"][0])
    tokens = await driver.generate(model, ids, 48, SAMPLED)
    assert tokens == await driver.generate(model, ids, 48, SAMPLED)
    assert tokens == sampled_before.setdefault(model, tokens)
