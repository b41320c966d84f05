"""The last requests, kept in memory for whoever runs the gateway.

Owns a ring of entries, what each used, and sums since the start. Bodies are kept only when asked
for, cut at `BODY_CHARS_MAX`, and never logged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

from shoal_gateway.task import Usage

BODY_CHARS_MAX = 64 * 1024
# Models in the sums; the names come from backends, which know few.
_MODELS_MAX = 1000


@dataclass
class Entry:
    """One request. `status` is 0 while it runs; `duration_s` counts to the answer's last byte."""

    request_id: str
    method: str
    route: str
    started_at: float
    caller: str = ""
    key_id: str = ""
    model: str = ""
    status: int = 0
    outcome: str = "running"
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_body: str = field(default="", repr=False)
    reply_text: str = field(default="", repr=False)


class History:
    """A ring of the newest `limit` requests, running ones among them.

    keeps_bodies: also keep what was asked and answered.
    """

    def __init__(self, limit: int, keeps_bodies: bool) -> None:
        self.keeps_bodies = keeps_bodies
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._running: dict[str, Entry] = {}
        self._outcomes: Counter[str] = Counter()
        self._by_model: dict[str, Counter[str]] = {}

    def begin(self, entry: Entry) -> None:
        """A request has come."""
        self._running[entry.request_id] = entry
        if not self._limit:
            return
        self._entries[entry.request_id] = entry
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def end(self, entry: Entry, status: int, outcome: str, duration_s: float) -> None:
        """Its answer is out."""
        self._running.pop(entry.request_id, None)
        entry.status, entry.outcome, entry.duration_s = status, outcome, duration_s
        self._outcomes[outcome] += 1

    def answered_by(self, request_id: str, model: str) -> None:
        """A model takes the request. Ids of a request's parts begin with
        its own and a hyphen."""
        entry = self._find(request_id)
        if entry is not None:
            entry.model = model
        if model in self._by_model or len(self._by_model) < _MODELS_MAX:
            self._by_model.setdefault(model, Counter())["answers"] += 1

    def used(self, request_id: str, usage: Usage) -> None:
        """An answer's tokens. Also for requests that ended meanwhile: they run on in background."""
        entry = self._find(request_id)
        if entry is None:
            return
        entry.prompt_tokens += usage.prompt_tokens
        entry.completion_tokens += usage.completion_tokens
        sums = self._by_model.get(entry.model)
        if sums is not None:
            sums["prompt_tokens"] += usage.prompt_tokens
            sums["completion_tokens"] += usage.completion_tokens

    def asked(self, entry: Entry, raw: bytes) -> None:
        """Keep a request's body, if bodies are kept."""
        if self.keeps_bodies:
            entry.request_body = raw[:BODY_CHARS_MAX].decode(errors="replace")

    def said(self, request_id: str, text: str) -> None:
        """Keep a piece of an answer, if bodies are kept."""
        entry = self._find(request_id) if self.keeps_bodies else None
        if entry is not None and len(entry.reply_text) < BODY_CHARS_MAX:
            entry.reply_text += text

    def newest(self) -> list[Entry]:
        """The entries, newest first."""
        return list(reversed(self._entries.values()))

    def show(self, request_id: str) -> Entry | None:
        """One entry, unless it is unknown or forgotten."""
        return self._entries.get(request_id)

    def sums(self) -> dict[str, Any]:
        """Counts since the start, and how long the requests of the ring took."""
        ended = sorted(e.duration_s for e in self._entries.values() if e.status)
        return {
            "requests": dict(self._outcomes),
            "running": len(self._running),
            "models": {model: dict(counts) for model, counts in self._by_model.items()},
            "duration_s": {
                "count": len(ended),
                "p50": _quantile(ended, 0.5),
                "p95": _quantile(ended, 0.95),
                "max": ended[-1] if ended else None,
            },
        }

    def _find(self, request_id: str) -> Entry | None:
        """Its entry, or that of the request whose part it is."""
        while request_id:
            entry = self._running.get(request_id) or self._entries.get(request_id)
            if entry is not None:
                return entry
            request_id = request_id.rpartition("-")[0]
        return None


def _quantile(ordered: list[float], share: float) -> float | None:
    """The nearest rank; None of nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
