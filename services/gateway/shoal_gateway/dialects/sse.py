"""The form of server-sent events. Pure."""

from __future__ import annotations

import json
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def data_event(value: dict[str, Any], name: str = "") -> bytes:
    """One event; `name` is its type where the dialect gives events types."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()
