"""Lists in pages, as OpenAI's API asks for them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits


def query_integer(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A number of the query, `default` where it is missing. Raises InvalidRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError as err:
        raise InvalidRequest(f"'{name}' must be an integer", param=name) from err
    return limits.as_integer(value, name, least, most)


def page_of(request: web.Request, items: list[Any]) -> dict[str, Any]:
    """The part of a list that the query asks for."""
    count_max = query_integer(request, "limit", 20, 1, 100)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    if order == "desc":
        items = items[::-1]
    names = [item["id"] for item in items]
    start = _position(request, "after", names) + 1 if "after" in request.query else 0
    stop = _position(request, "before", names) if "before" in request.query else len(items)
    shown = items[start:stop][:count_max]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + len(shown) < stop,
    }


def _position(request: web.Request, name: str, names: list[str]) -> int:
    wanted = request.query[name]
    if wanted not in names:
        raise InvalidRequest(f"'{name}' names no item of this response", param=name)
    return names.index(wanted)
