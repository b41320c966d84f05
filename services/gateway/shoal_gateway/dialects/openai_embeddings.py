"""OpenAI's embeddings: a body to the texts to embed, and vectors to the answer's body. Pure."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields

TEXT_COUNT_MAX = 2048
TEXT_CHARS_MAX = 32_768
FORMATS = ("float", "base64")
_KNOWN_FIELDS = ("model", "input", "encoding_format", "dimensions", "user")
_NAMESPACE = "sentence-transformers/"


@dataclass(frozen=True)
class EmbeddingsAsked:
    """dimensions: of each vector; None takes the model's."""

    model: str
    texts: tuple[str, ...] = field(repr=False)
    is_base64: bool = False
    dimensions: int | None = None


def parse(body: dict[str, Any], is_strict: bool) -> EmbeddingsAsked:
    """Raises InvalidRequest. `user` says nothing to a model of the house."""
    given = fields.present(body)
    fields.unknown(given, _KNOWN_FIELDS, is_strict)
    encoding = given.get("encoding_format", FORMATS[0])
    if encoding not in FORMATS:
        raise InvalidRequest(
            f"'encoding_format' must be one of {', '.join(FORMATS)}", param="encoding_format"
        )
    return EmbeddingsAsked(
        model=fields.model_name(given),
        texts=_texts(given.get("input")),
        is_base64=encoding == "base64",
        dimensions=fields.integer(given, "dimensions", 1, 65536),
    )


def is_same_model(asked: str, model: str) -> bool:
    """Whether a client's name means the model: case and the namespace it is published in say
    nothing."""
    return bool(model) and _plain(asked) == _plain(model)


def require_dimensions(asked: EmbeddingsAsked, model: str, dimensions: int) -> None:
    """A vector that was cut short would be worth little here. Raises InvalidRequest."""
    if asked.dimensions not in (None, dimensions):
        raise InvalidRequest(
            f"'dimensions' must be {dimensions} for model '{model}', which cannot be shortened: "
            "leave it out",
            param="dimensions",
        )


def entry(index: int, values: Sequence[float], is_base64: bool) -> dict[str, Any]:
    """One vector; in base64 its numbers are float32, least byte first."""
    embedding: list[float] | str = list(values)
    if is_base64:
        numbers = array("f", values)
        if sys.byteorder == "big":
            numbers.byteswap()
        embedding = base64.b64encode(numbers.tobytes()).decode()
    return {"object": "embedding", "index": index, "embedding": embedding}


def whole(model: str, entries: list[dict[str, Any]], token_count: int) -> dict[str, Any]:
    usage = {"prompt_tokens": token_count, "total_tokens": token_count}
    return {"object": "list", "data": entries, "model": model, "usage": usage}


def _plain(model: str) -> str:
    return model.lower().removeprefix(_NAMESPACE)


def _texts(given: Any) -> tuple[str, ...]:
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, list) or not entries:
        raise InvalidRequest(
            "'input' must be a string or an array that is not empty", param="input"
        )
    if isinstance(entries[0], int | list):
        raise InvalidRequest(
            "'input' holds token ids, and those of another model's tokeniser mean nothing to the "
            "embedding model of this fleet: send the texts",
            param="input",
        )
    texts = limits.as_list(entries, "input", TEXT_COUNT_MAX)
    return tuple(
        limits.check_length(limits.as_text(text, param), param, 1, TEXT_CHARS_MAX)
        for text, param in ((text, f"input[{index}]") for index, text in enumerate(texts))
    )
