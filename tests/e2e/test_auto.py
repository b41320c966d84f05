"""A fleet whose workers were told nothing: the router decides who holds what."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.e2e.driving import Driver
from tests.e2e.fleet import Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


async def held(fleet: Fleet) -> dict[str, list[tuple[str, int, int]]]:
    """Models and layers by worker, as the router sees it."""
    driver = Driver(fleet.address("router"), fleet.token)
    try:
        return {
            worker.beat.node_id: [
                (e.model, e.layer_start, e.layer_stop) for e in worker.beat.engines
            ]
            for worker in (await driver.fleet()).workers
        }
    finally:
        await driver.close()


async def test_a_ready_fleet_has_its_model_on_as_few_workers_as_it_needs(tmp_path: Path) -> None:
    with fleet_up(tmp_path, models=["heavyweight"], workers=2, auto=True) as fleet:
        assert sorted((await held(fleet)).values()) == [[], [("heavyweight", 0, 6)]]
        url = f"{fleet.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=fleet.key, max_retries=0) as client:
            reply = await client.chat.completions.create(
                model="heavyweight",
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0,
                max_tokens=32,
            )
        assert reply.choices[0].message.content == "The capital of France is Paris."


def test_a_model_that_fits_nowhere_ends_the_start_with_the_figures(tmp_path: Path) -> None:
    environment = {"SHOAL_WORKER_GPU_MEMORY_MAX_MB": "16"}
    fleet = Fleet(
        tmp_path,
        models=["heavyweight"],
        workers=1,
        split=False,
        auto=True,
        environment=environment,
    )
    try:
        assert fleet.process.wait(120) == 1
    finally:
        fleet.stop()
    assert "error: heavyweight did not start" in fleet.log()
    assert "16 MiB are free" in fleet.log()
