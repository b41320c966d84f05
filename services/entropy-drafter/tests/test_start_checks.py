"""What keeps the service from starting, and what it says then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shoal_common.settings import ConfigurationError
from shoal_common.testing.redis import start_redis
from shoal_entropy_drafter.app import running

from .chat_upstream import KEY, ChatUpstream, chat_upstream, chunk
from .fleet_fakes import FakeEmbedder, settings_of

NOWHERE = "http://127.0.0.1:1/v1"


@pytest.fixture
async def upstream() -> AsyncIterator[ChatUpstream]:
    async with chat_upstream() as fake:
        yield fake


async def refusal(data_dir: Path, **settings: Any) -> str:
    values: dict[str, Any] = {"drafter_provider": "openai", "drafter_model": "small"}
    configured = settings_of(data_dir, **(values | settings))
    embedder = FakeEmbedder()
    with pytest.raises(ConfigurationError) as caught:
        async with running(configured, embedder):
            pass
    return str(caught.value)


async def started(data_dir: Path, upstream: ChatUpstream, **settings: Any) -> None:
    values: dict[str, Any] = {
        "drafter_provider": "openai",
        "drafter_model": "small",
        "drafter_base_url": upstream.url,
    }
    async with running(settings_of(data_dir, **(values | settings)), FakeEmbedder()):
        pass


async def test_upstream_is_asked_for_a_word_with_logprobs(
    upstream: ChatUpstream, tmp_path: Path
) -> None:
    await started(tmp_path, upstream, drafter_api_key=KEY)
    (body,) = upstream.bodies
    assert (body["logprobs"], body["top_logprobs"], body["stream"]) == (True, 20, True)
    assert body["max_tokens"] < 100


async def test_upstream_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = await refusal(tmp_path, drafter_base_url=NOWHERE)
    assert "SHOAL_ENTROPY_DRAFTER_DRAFTER_BASE_URL" in said
    assert "start it, or correct the address" in said


async def test_upstream_without_logprobs_is_refused(upstream: ChatUpstream, tmp_path: Path) -> None:
    upstream.script = [chunk("Hello"), chunk(finish="stop")]
    said = await refusal(tmp_path, drafter_base_url=upstream.url)
    assert "drafter_model" in said
    assert "gave no logprobs with any of 1 tokens" in said
    assert "supports logprobs and top_logprobs" in said


async def test_upstream_that_is_silent_is_refused(upstream: ChatUpstream, tmp_path: Path) -> None:
    upstream.hold_at = 0
    said = await refusal(tmp_path, drafter_base_url=upstream.url, drafter_timeout_s=0.2)
    assert "within 0.2 s" in said or "silent for too long" in said


@pytest.mark.parametrize(
    ("status", "option"),
    [(401, "drafter_api_key"), (404, "drafter_model"), (400, "drafter_model")],
)
async def test_what_the_upstream_refuses_names_its_option(
    upstream: ChatUpstream, tmp_path: Path, status: int, option: str
) -> None:
    upstream.status, upstream.problem = status, KEY
    said = await refusal(tmp_path, drafter_base_url=upstream.url, drafter_api_key=KEY)
    assert said.startswith(f"{option} (SHOAL_ENTROPY_DRAFTER_{option.upper()})")
    assert f"HTTP {status}" in said
    assert KEY not in said


async def test_busy_upstream_is_warned_of_and_taken(
    upstream: ChatUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.status = 429
    await started(tmp_path, upstream)
    assert "drafter not checked" in [record.message for record in caplog.records]


@pytest.mark.parametrize("url", ["http://", "https://:0/v1", "http://[::1/v1"])
async def test_address_that_names_no_server_is_refused(tmp_path: Path, url: str) -> None:
    assert "is not an address" in await refusal(tmp_path, drafter_base_url=url)


async def test_key_comes_from_a_file(upstream: ChatUpstream, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    await started(tmp_path, upstream, drafter_api_key_file=path)
    assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", "schlüssel".encode()])
async def test_key_file_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    said = await refusal(tmp_path, drafter_base_url=NOWHERE, drafter_api_key_file=path)
    assert "drafter_api_key_file" in said
    assert "schl" not in said


async def test_threshold_of_another_model_is_refused(tmp_path: Path) -> None:
    said = await refusal(tmp_path, calibrated_for="drafter", drafter_base_url=NOWHERE)
    assert "calibrated_for" in said


@pytest.mark.parametrize(
    ("option", "value"), [("redis_url", "mysql://here"), ("qdrant_url", "nonsense")]
)
async def test_address_of_no_store_is_refused(tmp_path: Path, option: str, value: str) -> None:
    stores = {"redis_url": "redis://127.0.0.1:1/0"} | {option: value}
    said = await refusal(tmp_path, drafter_provider="fleet", **stores)
    assert said.startswith(option)


async def test_collection_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis:
        stores = {"drafter_provider": "fleet", "redis_url": redis.url}
        async with running(settings_of(tmp_path, embedding_dimensions=2, **stores), FakeEmbedder()):
            pass
        said = await refusal(tmp_path, embedding_dimensions=3, **stores)
    assert "embedding_dimensions" in said
    assert "qdrant_collection" in said


async def test_what_was_opened_is_closed_where_the_start_fails(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    configured = settings_of(tmp_path, drafter_provider="openai", drafter_base_url=NOWHERE)
    with pytest.raises(ConfigurationError):
        async with running(configured, embedder):
            pass
    assert embedder.is_closed
