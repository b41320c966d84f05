"""An embedding model in this process, on one thread of its own.

Owns the thread, the order of work and its bounds. Does not know the model: it gets an encoder.
Work goes to the thread in steps, one text to tokenise or one batch to compute, and those of
concurrent calls take turns: a short question waits for one step of each, not for a whole document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from shoal_entropy_drafter.embedder.base import Embedded, Vectors, check_bounds, no_vectors
from shoal_entropy_drafter.embedder.batches import batched
from shoal_entropy_drafter.errors import EmbedderBusy, EmbeddingFailed, EmbeddingTimedOut

WAITING_MAX = 4096
"""Texts in all calls under way: two of the largest requests."""

In = TypeVar("In")
Out = TypeVar("Out")


class Encoder(Protocol):
    """What computes; called on the embedder's thread only."""

    @property
    def dimensions(self) -> int:
        """D: numbers per vector."""

    @property
    def tokens_max(self) -> int:
        """Tokens that `tokens` gives at most; also those of one batch, padding included."""

    def tokens(self, text: str) -> list[int]:
        """Ids of `text`, at least one."""

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """(N, D), rows of length 1, of N token sequences."""


class LocalEmbedder:
    """An `Embedder` over an encoder."""

    def __init__(self, model: str, encoder: Encoder, timeout_s: float) -> None:
        self.model = model
        self.dimensions = encoder.dimensions
        self._encoder = encoder
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._waiting_count = 0
        self._is_closed = False

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder.embed`. Raises EmbedderBusy while `WAITING_MAX` texts wait."""
        check_bounds(texts)
        if not texts:
            return no_vectors(self.dimensions)
        if self._waiting_count + len(texts) > WAITING_MAX:
            raise EmbedderBusy(self._waiting_count)
        self._waiting_count += len(texts)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._embedded(texts)
        except TimeoutError as err:
            raise EmbeddingTimedOut(self.model, self._timeout_s) from err
        finally:
            self._waiting_count -= len(texts)

    async def close(self) -> None:
        """End the thread after the step it is at."""
        self._is_closed = True
        await asyncio.to_thread(self._thread.shutdown)

    async def _embedded(self, texts: Sequence[str]) -> Embedded:
        rows = [await self._on_thread(self._encoder.tokens, text) for text in texts]
        vectors = np.empty((len(rows), self.dimensions), dtype=np.float32)
        # A batch fills one text's worth of tokens: larger ones were no faster per token.
        for batch in batched([len(row) for row in rows], self._encoder.tokens_max):
            part = [rows[index] for index in batch]
            vectors[batch] = await self._on_thread(self._encoder.vectors, part)
        return Embedded(vectors, sum(len(row) for row in rows))

    async def _on_thread(self, work: Callable[[In], Out], argument: In) -> Out:
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._step, work, argument)

    def _step(self, work: Callable[[In], Out], argument: In) -> Out:
        # What was queued before the end does not hold it up.
        self._check_open()
        return work(argument)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EmbeddingFailed(self.model, "the service is ending")
