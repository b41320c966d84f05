"""Which embedder opens, and which settings are refused with which remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from shoal_common.settings import ConfigurationError
from shoal_entropy_drafter.embedder.opening import open_embedder
from shoal_entropy_drafter.settings import Settings

from .fake_upstream import KEY, FakeUpstream, upstream


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    async with upstream() as fake:
        yield fake


async def refusal(**options: Any) -> str:
    """What is said to settings that cannot be used."""
    with pytest.raises(ConfigurationError) as caught:
        await open_embedder(Settings(**options))
    return str(caught.value)


def upstream_options(url: str, **changes: Any) -> dict[str, Any]:
    return {
        "embedding_provider": "openai",
        "embedding_base_url": url,
        "embedding_api_key": KEY,
        "embedding_model": "fake",
        "embedding_dimensions": 4,
        **changes,
    }


async def test_the_default_is_the_local_model() -> None:
    embedder = await open_embedder(Settings())
    try:
        embedded = await embedder.embed(["What is the capital of France?", "", "Ja."])
        assert (embedder.model, embedder.dimensions) == ("all-MiniLM-L6-v2", 384)
        assert embedded.vectors.shape == (3, 384)
        assert embedded.token_count == 9 + 2 + 4
        np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-6)
    finally:
        await embedder.close()


async def test_an_upstream_opens_once_it_has_answered(fake: FakeUpstream) -> None:
    embedder = await open_embedder(Settings(**upstream_options(fake.url)))
    try:
        assert len(fake.bodies) == 1
        assert (embedder.model, embedder.dimensions) == ("fake", 4)
        assert (await embedder.embed(["abc"])).vectors.shape == (1, 4)
    finally:
        await embedder.close()


async def test_an_unknown_local_model_is_refused() -> None:
    said = await refusal(embedding_model="text-embedding-3-small")
    assert "embedding_model (SHOAL_ENTROPY_DRAFTER_EMBEDDING_MODEL)" in said
    assert "'all-MiniLM-L6-v2'" in said
    assert "SHOAL_ENTROPY_DRAFTER_EMBEDDING_PROVIDER" in said


async def test_other_dimensions_of_the_local_model_are_refused() -> None:
    said = await refusal(embedding_dimensions=1536)
    assert "embedding_dimensions (SHOAL_ENTROPY_DRAFTER_EMBEDDING_DIMENSIONS)" in said
    assert "set it to 384" in said


async def test_other_dimensions_of_an_upstream_are_refused(fake: FakeUpstream) -> None:
    said = await refusal(**upstream_options(fake.url, embedding_dimensions=1536))
    assert "embedding_dimensions (SHOAL_ENTROPY_DRAFTER_EMBEDDING_DIMENSIONS)" in said
    assert "4 numbers, not 1536" in said


@pytest.mark.parametrize(
    ("status", "variable"),
    [(401, "EMBEDDING_API_KEY"), (404, "EMBEDDING_MODEL"), (404, "EMBEDDING_BASE_URL")],
)
async def test_a_refusing_upstream_is_told_with_the_option(
    fake: FakeUpstream, status: int, variable: str
) -> None:
    fake.answer = lambda _: web.json_response({"error": {"message": KEY}}, status=status)
    said = await refusal(**upstream_options(fake.url))
    assert f"SHOAL_ENTROPY_DRAFTER_{variable})" in said
    assert f"HTTP {status}" in said
    assert KEY not in said


async def test_an_unreachable_upstream_is_refused() -> None:
    # Nobody listens on the discard port, and connecting fails at once.
    said = await refusal(**upstream_options("http://user:pass@127.0.0.1:9/v1"))
    assert "embedding_base_url (SHOAL_ENTROPY_DRAFTER_EMBEDDING_BASE_URL)" in said
    assert "127.0.0.1:9" in said
    assert "cannot be reached" in said
    assert "pass@" not in said


async def test_a_silent_upstream_is_refused(fake: FakeUpstream) -> None:
    fake.released.clear()
    said = await refusal(**upstream_options(fake.url, embedding_timeout_s=0.05))
    assert "SHOAL_ENTROPY_DRAFTER_EMBEDDING_BASE_URL" in said
    assert "0.05 s" in said


@pytest.mark.parametrize("url", ["http://", "http://host:port/v1", "http://[::1/v1"])
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    said = await refusal(**upstream_options(url))
    assert "embedding_base_url" in said
    assert "is not an address" in said


@pytest.mark.parametrize("key", ["kéy", "key\nX-Other: 1"])
async def test_a_key_that_no_header_may_hold_is_refused(key: str) -> None:
    said = await refusal(**upstream_options("http://127.0.0.1:9/v1", embedding_api_key=key))
    assert "embedding_api_key (SHOAL_ENTROPY_DRAFTER_EMBEDDING_API_KEY)" in said
    assert key not in said
