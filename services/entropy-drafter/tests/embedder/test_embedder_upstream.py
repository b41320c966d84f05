"""An upstream's vectors: what is asked of it, and every way in which it may fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from shoal_common.errors import ShoalError
from shoal_entropy_drafter.embedder.upstream import (
    PORTION_CHARACTERS_MAX,
    PORTION_TEXTS_MAX,
    UpstreamEmbedder,
    portions,
)
from shoal_entropy_drafter.errors import (
    EmbeddingFailed,
    EmbeddingRefused,
    EmbeddingTimedOut,
    TooManyTexts,
)

from .fake_upstream import KEY, FakeUpstream, answer_of, upstream

SECRET_TEXT = "the owl flies at midnight"
Open = Callable[..., UpstreamEmbedder]


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    async with upstream() as fake:
        yield fake


@pytest.fixture
async def opened(fake: FakeUpstream) -> AsyncIterator[Open]:
    """Embedders for the fake, closed at the end."""
    embedders: list[UpstreamEmbedder] = []

    def open_one(**changes: Any) -> UpstreamEmbedder:
        arguments = {
            "model": "fake",
            "dimensions": 4,
            "base_url": fake.url,
            "api_key": KEY,
            "timeout_s": 20,
            "retries_max": 0,
        }
        embedders.append(UpstreamEmbedder(**{**arguments, **changes}))
        return embedders[-1]

    yield open_one
    for embedder in embedders:
        await embedder.close()


def answers_with(status: int, body: str, **headers: str) -> Callable[[Any], web.Response]:
    return lambda _: web.Response(
        status=status, text=body, headers=headers, content_type="application/json"
    )


async def test_vectors_have_length_one_and_usage_is_counted(
    fake: FakeUpstream, opened: Open
) -> None:
    embedded = await opened().embed(["abc", ""])
    expected = [[3 / 10**0.5, 0, 0, 1 / 10**0.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(embedded.vectors, expected, atol=1e-6)
    assert embedded.vectors.dtype == np.float32
    assert embedded.token_count == 5
    assert fake.bodies == [{"input": ["abc", ""], "model": "fake", "encoding_format": "float"}]
    assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_vectors_are_put_in_order_by_their_index(fake: FakeUpstream, opened: Open) -> None:
    whole = answer_of([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    whole["data"].reverse()
    fake.answer = lambda _: web.json_response(whole)
    embedded = await opened().embed(["a", "b", "c"])
    np.testing.assert_array_equal(embedded.vectors, np.eye(3, 4))


async def test_dimensions_are_asked_for_where_the_model_has_the_parameter(
    fake: FakeUpstream, opened: Open
) -> None:
    for model in ("text-embedding-3-small", "openai/text-embedding-3-large"):
        await opened(model=model).embed(["a"])
        assert fake.bodies[-1]["dimensions"] == 4
    for model in ("text-embedding-ada-002", "nomic-embed-text"):
        await opened(model=model).embed(["a"])
        assert "dimensions" not in fake.bodies[-1]


async def test_many_texts_go_in_portions_and_come_back_as_one(
    fake: FakeUpstream, opened: Open
) -> None:
    texts = ["a" * (index % 7) for index in range(PORTION_TEXTS_MAX + 3)]
    embedded = await opened().embed(texts)
    assert [len(body["input"]) for body in fake.bodies] == [PORTION_TEXTS_MAX, 3]
    ratios = embedded.vectors[:, 0] / embedded.vectors[:, 3]
    np.testing.assert_allclose(ratios, [len(text) for text in texts], rtol=1e-5)
    assert embedded.token_count == 10


def test_portions_keep_to_characters_and_lose_nothing() -> None:
    half = "a" * (PORTION_CHARACTERS_MAX // 2)
    texts = [half, half, "b", half * 3, "c", "d"]
    assert [len(part) for part in portions(texts)] == [2, 1, 1, 2]
    assert [text for part in portions(texts) for text in part] == texts


async def test_no_texts_ask_nobody(fake: FakeUpstream, opened: Open) -> None:
    assert (await opened().embed([])).vectors.shape == (0, 4)
    with pytest.raises(TooManyTexts):
        await opened().embed(["a"] * 3000)
    assert not fake.bodies


async def test_without_a_key_nothing_of_the_environment_is_sent(
    fake: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "of-somebody-else")
    await opened(api_key="").embed(["a"])
    assert "of-somebody-else" not in str(fake.headers)


async def test_without_usage_no_tokens_are_counted(fake: FakeUpstream, opened: Open) -> None:
    whole = answer_of([[1, 0, 0, 0]])
    del whole["usage"]
    fake.answer = lambda _: web.json_response(whole)
    assert (await opened().embed(["a"])).token_count == 0


OPTIONS = {
    400: "embedding_model",
    401: "embedding_api_key",
    403: "embedding_api_key",
    404: "embedding_model",
    422: "embedding_model",
}


async def test_a_refusal_names_the_option_and_is_not_tried_again(
    fake: FakeUpstream, opened: Open
) -> None:
    embedder = opened(retries_max=2)
    for status, option in OPTIONS.items():
        fake.bodies.clear()
        fake.answer = answers_with(status, '{"error": {"message": "no"}}')
        with pytest.raises(EmbeddingRefused, match=f"HTTP {status}.*{option}") as caught:
            await embedder.embed(["a"])
        assert caught.value.option == option
        assert not caught.value.retryable
        assert len(fake.bodies) == 1


async def test_what_may_pass_is_tried_again_but_not_for_ever(
    fake: FakeUpstream, opened: Open
) -> None:
    embedder = opened(retries_max=2)
    for status in (429, 500, 503):
        fake.bodies.clear()
        fake.answer = answers_with(status, "{}", **{"retry-after-ms": "1"})
        with pytest.raises(EmbeddingFailed, match=f"HTTP {status}") as caught:
            await embedder.embed(["a"])
        assert caught.value.retryable
        assert len(fake.bodies) == 3


async def test_a_second_try_may_succeed(fake: FakeUpstream, opened: Open) -> None:
    def once(body: dict[str, Any]) -> web.Response:
        fake.answer = fake.usual
        return web.Response(status=500, headers={"retry-after-ms": "1"})

    fake.answer = once
    assert (await opened(retries_max=1).embed(["a"])).token_count == 5


ROW = [1, 0, 0, 0]
TOO_FEW = answer_of([ROW])
MALFORMED: dict[str, str] = {
    "no JSON": "<html>",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "no data": '{"object": "list"}',
    "an error with status 200": '{"error": {"message": "out of memory"}}',
    "text for a vector": '{"data": [{"index": 0, "embedding": "AACAPw=="}]}',
    "text in a vector": '{"data": [{"index": 0, "embedding": ["1", 0, 0, 0]}]}',
    "null in a vector": '{"data": [{"index": 0, "embedding": [null, 0, 0, 0]}]}',
    "not a number": '{"data": [{"index": 0, "embedding": [NaN, 0, 0, 0]}]}',
    "no index": '{"data": [{"embedding": [1, 0, 0, 0]}]}',
    "an index of its own": '{"data": [{"index": [0], "embedding": [1, 0, 0, 0]}]}',
    "another index": '{"data": [{"index": 7, "embedding": [1, 0, 0, 0]}]}',
    "a negative index": '{"data": [{"index": -1, "embedding": [1, 0, 0, 0]}]}',
    "usage of another kind": '{"data": [{"index": 0, "embedding": [1, 0, 0, 0]}], "usage": [1]}',
    "too many": '{"data": [{"index": 0, "embedding": [1, 0, 0, 0]},'
    '{"index": 0, "embedding": [1, 0, 0, 0]}]}',
    "zeros": '{"data": [{"index": 0, "embedding": [0, 0, 0, 0]}]}',
    "infinite": '{"data": [{"index": 0, "embedding": [1e999, 0, 0, 0]}]}',
    "beyond every float": '{"data": [{"index": 0, "embedding": [1%s, 0, 0, 0]}]}' % ("0" * 400),
}


async def test_malformed_answers_fail_the_call(fake: FakeUpstream, opened: Open) -> None:
    embedder = opened()
    for name, body in MALFORMED.items():
        fake.answer = answers_with(200, body)
        # A client is dear to make, so they share one.
        try:
            embedded = await embedder.embed(["a"])
        except EmbeddingFailed:
            continue
        pytest.fail(f"{name} was read as {embedded.vectors}")


async def test_huge_and_tiny_numbers_keep_their_direction(fake: FakeUpstream, opened: Open) -> None:
    rows = [[3e300, 4e300, 0, 0], [3e-300, 4e-300, 0, 0]]
    fake.answer = lambda _: web.json_response(answer_of(rows))
    embedded = await opened().embed(["a", "b"])
    np.testing.assert_allclose(embedded.vectors, [[0.6, 0.8, 0, 0]] * 2, rtol=1e-6)


async def test_fewer_vectors_than_texts_fail_the_call(fake: FakeUpstream, opened: Open) -> None:
    fake.answer = lambda _: web.json_response(TOO_FEW)
    with pytest.raises(EmbeddingFailed, match="not that of an embeddings API"):
        await opened().embed(["a", "b"])


async def test_other_dimensions_name_the_option(fake: FakeUpstream, opened: Open) -> None:
    with pytest.raises(EmbeddingRefused, match="4 numbers, not 1536; see embedding_dimensions"):
        await opened(dimensions=1536).embed(["a"])


async def test_one_vector_of_another_length_is_refused(fake: FakeUpstream, opened: Open) -> None:
    fake.answer = lambda _: web.json_response(answer_of([ROW, ROW[:3]]))
    with pytest.raises(EmbeddingRefused, match="3 numbers"):
        await opened().embed(["a", "b"])


async def test_a_silent_upstream_times_out(fake: FakeUpstream, opened: Open) -> None:
    fake.released.clear()
    with pytest.raises(EmbeddingTimedOut, match=r"0\.05 s"):
        await opened(timeout_s=0.05, retries_max=2).embed(["a"])


async def test_nobody_there_is_told(opened: Open) -> None:
    with pytest.raises(EmbeddingFailed, match="cannot be reached"):
        await opened(base_url="http://127.0.0.1:9/v1").embed(["a"])


async def test_a_cancelled_call_closes_its_request(fake: FakeUpstream, opened: Open) -> None:
    fake.released.clear()
    embedder = opened()
    call = asyncio.create_task(embedder.embed(["a"]))
    await fake.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    fake.released.set()
    assert (await embedder.embed(["a"])).token_count == 5


async def test_the_end_fails_calls_under_way_and_later_ones(
    fake: FakeUpstream, opened: Open
) -> None:
    fake.released.clear()
    embedder = opened()
    call = asyncio.create_task(embedder.embed(["a"]))
    await fake.arrived.wait()
    await embedder.close()
    with pytest.raises(EmbeddingFailed):
        await call
    with pytest.raises(EmbeddingFailed, match="ending"):
        await embedder.embed(["a"])


def told_by(error: BaseException | None) -> str:
    """What a traceback of `error` would print, causes included."""
    lines = []
    while error is not None:
        lines.append(f"{type(error).__name__}: {error} {error.args}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


async def caught_from(call: Awaitable[object]) -> ShoalError:
    with pytest.raises(ShoalError) as caught:
        await call
    return caught.value


async def test_neither_key_nor_text_is_told_or_logged(
    fake: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f'{{"error": {{"message": "wrong key {KEY} for {SECRET_TEXT}", "code": "{KEY}"}}}}'
    embedder = opened(retries_max=1)
    for status in (200, 400, 401, 500):
        fake.answer = answers_with(status, echo, **{"retry-after-ms": "1"})
        error = await caught_from(embedder.embed([SECRET_TEXT]))
        said = told_by(error) + "".join(str(vars(record)) for record in caplog.records)
        assert KEY not in said
        assert SECRET_TEXT not in said
