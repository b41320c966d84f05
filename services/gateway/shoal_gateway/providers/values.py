"""What strangers send as JSON: a value of the type wanted, or the neutral one. Pure."""

from __future__ import annotations

from typing import Any


def obj(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def count(value: Any) -> int:
    """A number of things; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 2**53 else 0


def error_text(body: Any) -> str:
    """The message in the error bodies that providers send; "" if there is none."""
    error = obj(body).get("error", body)
    if isinstance(error, str):
        return error
    fields = obj(error)
    for name in ("message", "detail", "error"):
        if found := text(fields.get(name)):
            return found
    return ""
