"""An embedding model behind any OpenAI-compatible API.

Owns the calls, their portions and the reading of answers, which are trusted in nothing: shape,
order, numbers and lengths are checked. Does not know settings; errors name the option to look at.
Neither the upstream's words nor the SDK's errors are passed on: they may quote the key or a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openai
import orjson

from shoal_entropy_drafter.embedder.base import Embedded, Vectors, check_bounds, no_vectors
from shoal_entropy_drafter.errors import EmbeddingFailed, EmbeddingRefused, EmbeddingTimedOut
from shoal_entropy_drafter.upstream_client import upstream_client

RETRIES_MAX = 2
PORTION_TEXTS_MAX = 256
PORTION_CHARACTERS_MAX = 200_000
"""Of one HTTP request: OpenAI takes 300,000 tokens, and one character may be one."""

# The models whose API has the parameter; others refuse it.
_SHORTENED = "text-embedding-3"
_OPTION_BY_STATUS = {401: "embedding_api_key", 403: "embedding_api_key", 404: "embedding_model"}


class UpstreamEmbedder:
    """An `Embedder` over HTTP."""

    def __init__(
        self,
        model: str,
        dimensions: int,
        base_url: str,
        api_key: str,
        timeout_s: float,
        retries_max: int = RETRIES_MAX,
    ) -> None:
        """timeout_s: for all texts of a call, tries included. Opens no connection yet."""
        self.model = model
        self.dimensions = dimensions
        self._timeout_s = timeout_s
        self._client = upstream_client(base_url, api_key, timeout_s, retries_max)
        self._is_closed = False

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder.embed`; `token_count` is 0 where the upstream does not tell."""
        check_bounds(texts)
        if not texts:
            return no_vectors(self.dimensions)
        try:
            async with asyncio.timeout(self._timeout_s):
                parts = [await self._portion(portion) for portion in portions(texts)]
        except TimeoutError as err:
            raise EmbeddingTimedOut(self.model, self._timeout_s) from err
        vectors = np.concatenate([part.vectors for part in parts])
        return Embedded(vectors, sum(part.token_count for part in parts))

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._client.close()

    async def _portion(self, texts: Sequence[str]) -> Embedded:
        content = await self._asked(texts)
        try:
            answer = orjson.loads(content)
            token_count = _token_count(answer)
            rows = _rows(answer, len(texts))
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise EmbeddingFailed(
                self.model, "the upstream's answer is not that of an embeddings API"
            ) from err
        return Embedded(self._unit(rows), token_count)

    async def _asked(self, texts: Sequence[str]) -> bytes:
        """The body of the answer. Errors of the SDK are replaced, not chained: they quote."""
        is_shortened = _SHORTENED in self.model
        try:
            response = await self._client.embeddings.with_raw_response.create(
                input=list(texts),
                model=self.model,
                dimensions=self.dimensions if is_shortened else openai.omit,
                encoding_format="float",
            )
        except openai.APIStatusError as err:
            raise self._by_status(err.status_code) from None
        except openai.APITimeoutError:
            raise EmbeddingTimedOut(self.model, self._timeout_s) from None
        except openai.APIConnectionError:
            raise EmbeddingFailed(
                self.model, "the upstream cannot be reached, or broke off"
            ) from None
        except RuntimeError:
            # A try on a closed client.
            if not self._is_closed:
                raise
            raise EmbeddingFailed(self.model, "the service is ending") from None
        return response.content

    def _by_status(self, status: int) -> EmbeddingFailed | EmbeddingRefused:
        if status in (408, 409, 429) or status >= 500:
            return EmbeddingFailed(self.model, f"the upstream answered HTTP {status}")
        option = _OPTION_BY_STATUS.get(status, "embedding_model")
        return EmbeddingRefused(self.model, f"the upstream answered HTTP {status}", option)

    def _unit(self, rows: Sequence[Sequence[float]]) -> Vectors:
        """(N, D) of length 1. Raises EmbeddingRefused, EmbeddingFailed."""
        for row in rows:
            if len(row) != self.dimensions:
                problem = f"its vectors have {len(row)} numbers, not {self.dimensions}"
                raise EmbeddingRefused(self.model, problem, "embedding_dimensions")
        vectors = np.array(rows, dtype=np.float64)
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        if not (np.isfinite(largest).all() and (largest > 0).all()):
            raise EmbeddingFailed(self.model, "the upstream gave a vector without direction")
        # By the largest first: squares of huge or tiny numbers leave float64.
        vectors /= largest
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)


def portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """`texts` in runs, each within the bounds of one request or a single text."""
    start = characters = 0
    for index, text in enumerate(texts):
        characters += len(text)
        is_full = index - start == PORTION_TEXTS_MAX or characters > PORTION_CHARACTERS_MAX
        if is_full and index > start:
            yield texts[start:index]
            start, characters = index, len(text)
    yield texts[start:]


def _rows(answer: Any, count: int) -> list[list[float]]:
    """The `count` vectors by their index; raises what a document of another shape leads to."""
    rows: dict[int, list[float]] = {}
    for item in answer["data"]:
        row = item["embedding"]
        if not isinstance(row, list) or not all(type(value) in (int, float) for value in row):
            raise ValueError("an embedding is not a list of numbers")
        rows[item["index"]] = row
    if len(answer["data"]) != count or rows.keys() != set(range(count)):
        raise ValueError("not one embedding for each text")
    return [rows[index] for index in range(count)]


def _token_count(answer: Any) -> int:
    usage = answer.get("usage") or {}
    count = usage.get("prompt_tokens")
    return count if isinstance(count, int) and count >= 0 else 0
