"""Work on the embedder's thread: its order, its bounds, its end. The encoder is a fake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from shoal_common.testing.waiting import eventually
from shoal_entropy_drafter.embedder.base import TEXT_CHARACTERS_MAX, TEXTS_MAX, Vectors
from shoal_entropy_drafter.embedder.local import WAITING_MAX, LocalEmbedder
from shoal_entropy_drafter.errors import (
    EmbedderBusy,
    EmbeddingFailed,
    EmbeddingTimedOut,
    TextTooLong,
    TooManyTexts,
)


class FakeEncoder:
    """A text has as many tokens as letters; its vector tells its length. Waits while held."""

    dimensions = 2
    tokens_max = 8

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[list[int]] = []
        self.threads: set[int] = set()

    def tokens(self, text: str) -> list[int]:
        self.threads.add(threading.get_ident())
        return [ord(letter) for letter in text[: self.tokens_max]] or [0]

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        self.runs.append([len(row) for row in rows])
        assert self.gate.wait(20)
        angles = np.array([len(row) for row in rows])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
async def embedder(encoder: FakeEncoder) -> AsyncIterator[LocalEmbedder]:
    embedder = LocalEmbedder("fake", encoder, timeout_s=20)
    try:
        yield embedder
    finally:
        encoder.gate.set()
        await embedder.close()


async def test_vectors_come_in_the_order_of_the_texts(
    embedder: LocalEmbedder, encoder: FakeEncoder
) -> None:
    texts = ["abcdefgh", "a", "abcd", "ab", "abcdefghijkl"]
    embedded = await embedder.embed(texts)
    lengths = np.array([8, 1, 4, 2, 8])
    expected = np.stack([np.cos(lengths), np.sin(lengths)], axis=1)
    np.testing.assert_allclose(embedded.vectors, expected, atol=1e-6)
    assert embedded.vectors.dtype == np.float32
    assert embedded.token_count == 23
    assert sorted(length for run in encoder.runs for length in run) == [1, 2, 4, 8, 8]


async def test_no_texts_give_no_vectors(embedder: LocalEmbedder, encoder: FakeEncoder) -> None:
    embedded = await embedder.embed([])
    assert embedded.vectors.shape == (0, 2)
    assert embedded.token_count == 0
    assert not encoder.runs


async def test_the_loop_runs_on_while_vectors_are_computed(
    embedder: LocalEmbedder, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    call = asyncio.create_task(embedder.embed(["a"]))
    await eventually(lambda: encoder.runs)
    assert not call.done()
    encoder.gate.set()
    await call
    assert encoder.threads.isdisjoint({threading.get_ident()})


async def test_a_short_question_waits_for_one_step_of_a_long_call(
    embedder: LocalEmbedder, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    long = asyncio.create_task(embedder.embed(["abcdefgh"] * 5))
    await eventually(lambda: encoder.runs)
    short = asyncio.create_task(embedder.embed(["abc"]))
    await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.gather(short, long)
    # Its two steps, tokens and vectors, go between those of the other.
    assert encoder.runs.index([3]) <= 3
    assert encoder.runs.count([8]) == 5


async def test_time_that_is_up_ends_the_call(encoder: FakeEncoder) -> None:
    embedder = LocalEmbedder("fake", encoder, timeout_s=0.01)
    encoder.gate.clear()
    with pytest.raises(EmbeddingTimedOut, match=r"0\.01 s"):
        await embedder.embed(["abcdefgh"] * 3)
    encoder.gate.set()
    await embedder.close()
    assert len(encoder.runs) <= 1


async def test_a_cancelled_call_leaves_no_steps_behind(
    embedder: LocalEmbedder, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    call = asyncio.create_task(embedder.embed(["abcdefgh"] * 5))
    await eventually(lambda: encoder.runs)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    encoder.gate.set()
    await embedder.embed(["ab"])
    assert encoder.runs == [[8], [2]]


async def test_texts_beyond_the_queue_are_refused_until_it_is_shorter(
    embedder: LocalEmbedder, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    calls = [
        asyncio.create_task(embedder.embed(["a"] * TEXTS_MAX))
        for _ in range(WAITING_MAX // TEXTS_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(EmbedderBusy, match=f"{WAITING_MAX} texts wait"):
        await embedder.embed(["a"])
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    encoder.gate.set()
    assert (await embedder.embed(["a"])).token_count == 1


async def test_too_much_at_once_is_refused(embedder: LocalEmbedder) -> None:
    with pytest.raises(TooManyTexts, match="2049 texts"):
        await embedder.embed(["a"] * (TEXTS_MAX + 1))
    with pytest.raises(TextTooLong, match="text 1 has 32769 characters"):
        await embedder.embed(["a", "b" * (TEXT_CHARACTERS_MAX + 1)])


async def test_the_end_fails_calls_under_way_and_later_ones(encoder: FakeEncoder) -> None:
    embedder = LocalEmbedder("fake", encoder, timeout_s=20)
    encoder.gate.clear()
    calls = [asyncio.create_task(embedder.embed(["abcdefgh"] * 5)) for _ in range(3)]
    await eventually(lambda: encoder.runs)
    closing = asyncio.create_task(embedder.close())
    await asyncio.sleep(0)
    encoder.gate.set()
    await closing
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(ended, EmbeddingFailed)
    assert len(encoder.runs) == 1
    with pytest.raises(EmbeddingFailed):
        await embedder.embed(["a"])
    await embedder.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embedder")]
