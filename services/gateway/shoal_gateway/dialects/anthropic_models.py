"""Which models there are, as Anthropic's clients list them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits

PAGE_SIZE = 20
PAGE_SIZE_MAX = 1000
# Nobody knows when a model of the fleet came out.
CREATED_AT = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class PageAsked:
    """A page of a list: right behind `after_id`, else right before `before_id`, else the first."""

    limit: int = PAGE_SIZE
    after_id: str = ""
    before_id: str = ""


def page_asked(query: Mapping[str, str]) -> PageAsked:
    """Raises InvalidRequest naming the parameter that is wrong."""
    text = query.get("limit", str(PAGE_SIZE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= PAGE_SIZE_MAX):
        raise InvalidRequest(
            f"'limit' must be an integer between 1 and {PAGE_SIZE_MAX}", param="limit"
        )
    after_id, before_id = query.get("after_id", ""), query.get("before_id", "")
    if after_id and before_id:
        raise InvalidRequest("'before_id' cannot go with 'after_id'", param="before_id")
    return PageAsked(int(text), after_id, before_id)


def page_of(models: Sequence[dict[str, Any]], asked: PageAsked) -> dict[str, Any]:
    """Raises InvalidRequest where the id to go on from is none of the models'."""
    ids = [model["id"] for model in models]
    if asked.before_id:
        stop = _place(ids, asked.before_id, "before_id")
        start = max(0, stop - asked.limit)
        has_more = start > 0
    else:
        start = _place(ids, asked.after_id, "after_id") + 1 if asked.after_id else 0
        stop = min(len(ids), start + asked.limit)
        has_more = stop < len(ids)
    shown = list(models[start:stop])
    return {
        "data": shown,
        "has_more": has_more,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def model_info(name: str, context_length: int) -> dict[str, Any]:
    """What is said of one model. `context_length` 0 is not known yet."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": CREATED_AT,
        "lifecycle": "active",
        "max_input_tokens": context_length or None,
        "max_tokens": min(context_length, limits.TOKENS_MAX) or None,
    }


def _place(ids: Sequence[str], wanted: str, param: str) -> int:
    if wanted not in ids:
        raise InvalidRequest(f"'{param}' names no model; see /v1/models", param=param)
    return ids.index(wanted)
