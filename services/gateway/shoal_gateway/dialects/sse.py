"""The form of server-sent events. Pure."""

from __future__ import annotations

import json
from typing import Any

import orjson

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def data_event(value: dict[str, Any], name: str = "") -> bytes:
    """One event; `name` is its type where the dialect gives events types."""
    data = json_bytes(value)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # Integers beyond 64 bits, keys that are numbers: rare, and Python's own can.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
