"""What is kept of one response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal_gateway.dialects.responses_render import TERMINAL

_SNIPPET_CHARS_MAX = 200


@dataclass(frozen=True)
class Record:
    """`response` is the object as it was last written, `items` its own input with ids.

    tenant: whose it is. is_logged: its events are kept as well. is_cancelled: somebody asked for
    its end.
    """

    response_id: str
    tenant: str
    status: str
    created_at: int
    model: str
    previous_id: str
    is_background: bool
    is_logged: bool
    response: Mapping[str, Any] = field(repr=False)
    items: Sequence[Mapping[str, Any]] = field(repr=False)
    is_cancelled: bool = False

    @property
    def is_ended(self) -> bool:
        """Nothing is added any more."""
        return self.status in TERMINAL

    @property
    def snippet(self) -> str:
        """The first words of the input, for lists."""
        for item in self.items:
            content = item.get("content") or item.get("output") or ""
            parts = content if isinstance(content, list) else [{"text": content}]
            for part in parts:
                if text := part.get("text"):
                    return str(text)[:_SNIPPET_CHARS_MAX]
        return ""

    def to_fields(self) -> dict[str, str]:
        """As Redis keeps it."""
        return {
            "tenant": self.tenant,
            "status": self.status,
            "created_at": str(self.created_at),
            "model": self.model,
            "previous_id": self.previous_id,
            "is_background": "1" if self.is_background else "",
            "is_logged": "1" if self.is_logged else "",
            "snippet": self.snippet,
            "response": to_json(self.response),
            "items": to_json(list(self.items)),
        }

    @classmethod
    def from_fields(cls, response_id: str, fields: Mapping[bytes, bytes]) -> Record:
        """The reverse of `to_fields`."""
        text = {key.decode(): value.decode() for key, value in fields.items()}
        return cls(
            response_id=response_id,
            tenant=text["tenant"],
            status=text["status"],
            created_at=int(text["created_at"]),
            model=text["model"],
            previous_id=text["previous_id"],
            is_background=bool(text["is_background"]),
            is_logged=bool(text["is_logged"]),
            response=json.loads(text["response"]),
            items=json.loads(text["items"]),
            is_cancelled="is_cancelled" in text,
        )


@dataclass(frozen=True)
class Summary:
    """One line of a list of records."""

    response_id: str
    tenant: str
    status: str
    created_at: int
    model: str
    is_background: bool
    snippet: str


def to_json(value: Any) -> str:
    """Compact, as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
