"""Whoever talks to a module's `fleet`: the official client, and a driver without the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.e2e.driving import Driver
from tests.e2e.fleet import Fleet


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{fleet.url}/v1", api_key=fleet.key, max_retries=0, timeout=120
    ) as client:
        yield client


@pytest.fixture
async def driver(fleet: Fleet) -> AsyncIterator[Driver]:
    driver = Driver(fleet.address("router"), fleet.token)
    yield driver
    await driver.close()
