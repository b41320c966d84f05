"""What every embedder keeps to, and the bounds of one request.

An embedder works off the event loop, may be asked by many at once, and a text's vector does not
depend on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shoal_entropy_drafter.errors import TextTooLong, TooManyTexts

TEXTS_MAX = 2048
"""Texts of one request: as many as OpenAI's API takes."""
TEXT_CHARACTERS_MAX = 32_768
"""Characters of one text: about the 8,192 tokens that upstream models read. The local model reads
256 tokens, and this much costs it 20 to 70 ms to tokenise."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """vectors: (N, D) float32, rows of length 1, in the order of the texts.

    token_count: what the model read, special tokens included.
    """

    vectors: Vectors
    token_count: int


class Embedder(Protocol):
    """One embedding model, ready to use until `close`."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def dimensions(self) -> int:
        """D: numbers per vector."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`; none for no texts.

        Raises TooManyTexts, TextTooLong, EmbedderBusy, EmbeddingTimedOut, EmbeddingFailed or
        EmbeddingRefused. A cancelled call leaves no work behind but the step it was at.
        """

    async def close(self) -> None:
        """End it; calls under way fail. A second call does nothing."""


def check_bounds(texts: Sequence[str]) -> None:
    """Raise TooManyTexts or TextTooLong where one request asks for too much."""
    if len(texts) > TEXTS_MAX:
        raise TooManyTexts(len(texts), TEXTS_MAX)
    for index, text in enumerate(texts):
        if len(text) > TEXT_CHARACTERS_MAX:
            raise TextTooLong(index, len(text), TEXT_CHARACTERS_MAX)


def no_vectors(dimensions: int) -> Embedded:
    """What no texts give: (0, D)."""
    return Embedded(np.zeros((0, dimensions), dtype=np.float32), 0)
