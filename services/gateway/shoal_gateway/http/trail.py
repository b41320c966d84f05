"""Where this fleet answered and how long it took: as headers, and as a stream's last words.

`x-shoal-route: 5f0c;node-a@0:3;node-b@3:6` names a pipeline and its stages; there are more than one
where several choices went different ways, or a pipeline was lost on the way. `Server-Timing` is the
standard's. When a stream's head goes out nothing is known of its times yet, nor of its way where it
goes out while the request waits, so both precede its last event in a comment, which readers of
server-sent events pass over. What providers answer leaves no trail.

A cascade adds who answered (`x-shoal-answered-by`), how sure the draft was (`x-shoal-entropy`), why
the heavyweight has a part in it (`x-shoal-escalation`), and which kept answer was given again
(`x-shoal-cache: semantic; similarity=0.97; age=12`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from aiohttp import web

from shoal_gateway.task import Admitted, Event, Finished, Provenance, Route, StageTime

log = logging.getLogger(__name__)

ANSWERED_BY_HEADER = "x-shoal-answered-by"
ENTROPY_HEADER = "x-shoal-entropy"
ESCALATION_HEADER = "x-shoal-escalation"
CACHE_HEADER = "x-shoal-cache"
ROUTE_HEADER = "x-shoal-route"
TIMING_HEADER = "Server-Timing"
# A request for many choices, each replanned, must not outgrow what proxies take for headers.
_ENTRIES_MAX = 8
_UNSAFE = re.compile(r"[^!#-+\--:<-\[\]-~]")


class Trail:
    """Notes what events tell of the way of one request's answers."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, ...], None] = {}
        self._queued_ms: int | None = None
        self._times: list[StageTime] = []
        # Of answers that have ended, and of the others what is known by now.
        self._provenances: list[Provenance] = []
        self._early_provenances: list[Provenance] = []
        self.is_news = False
        """An answer has ended since the last comment."""

    def note(self, event: Event) -> None:
        """Takes in the first and the last event of an answer; others say nothing of its way."""
        if isinstance(event, Admitted | Finished) and event.route is not None:
            self._note_route(event.route)
        if isinstance(event, Admitted) and event.provenance is not None:
            self._early_provenances.append(event.provenance)
        if isinstance(event, Finished):
            if event.provenance is not None:
                self._provenances.append(event.provenance)
            self._times += event.times
            self._log(event)
            self.is_news = bool(self._routes or self._provenances)

    def headers(self) -> dict[str, str]:
        """By now; empty when neither this fleet nor a cascade has a part in the answer."""
        provenances = (self._provenances or self._early_provenances)[:_ENTRIES_MAX]
        return self._way() | provenance_headers(provenances)

    def _way(self) -> dict[str, str]:
        if not self._routes:
            return {}
        routes = list(self._routes)[:_ENTRIES_MAX]
        return {
            ROUTE_HEADER: ", ".join(";".join(map(_safe, route)) for route in routes),
            TIMING_HEADER: ", ".join(self._timings()),
        }

    def comment(self) -> bytes:
        """The same as lines of a stream that its reader passes over; b"" for nothing."""
        self.is_news = False
        lines = [f": {name.lower()}: {value}\n" for name, value in self.headers().items()]
        return ("".join(lines) + "\n").encode() if lines else b""

    def _note_route(self, route: Route) -> None:
        self._routes[route.pipeline_id, *route.stages] = None
        self._queued_ms = max(self._queued_ms or 0, route.queued_ms)

    def _log(self, finished: Finished) -> None:
        if finished.route is None or not log.isEnabledFor(logging.DEBUG):
            return
        fields: dict[str, object] = {
            "diag": "timing",
            "pipeline_id": finished.route.pipeline_id,
            "stages": list(finished.route.stages),
            "queued_ms": self._queued_ms,
            "tokens": finished.usage.completion_tokens,
            "cached_tokens": finished.usage.cached_tokens,
        }
        for name in ("queue", "compute", "wire"):
            fields[f"{name}_ms"] = [
                round(getattr(time, f"{name}_us") / 1000, 3) for time in finished.times
            ]
        log.debug("answer timed", extra=fields)

    def _timings(self) -> list[str]:
        timings = [f"queue;dur={self._queued_ms}"]
        for index, time in enumerate(self._times[: _ENTRIES_MAX * 4]):
            where = _safe(time.stage)
            timings.append(f's{index}-queue;dur={_ms(time.queue_us)};desc="{where}"')
            timings.append(f"s{index}-compute;dur={_ms(time.compute_us)}")
            timings.append(f"s{index}-wire;dur={_ms(time.wire_us)}")
        return timings


def provenance_headers(provenances: Sequence[Provenance]) -> dict[str, str]:
    """Who of a cascade answered, for each choice in the order in which they ended."""
    entropies = [p.entropy for p in provenances if p.entropy is not None]
    kept = [p for p in provenances if p.cache_layer]
    values: dict[str, list[str]] = {
        ANSWERED_BY_HEADER: [str(p.answered_by) for p in provenances],
        ENTROPY_HEADER: [f"{entropy:.3f}" for entropy in entropies],
        ESCALATION_HEADER: [_safe(p.escalation) for p in provenances if p.escalation],
        CACHE_HEADER: [
            f"{p.cache_layer}; similarity={p.similarity:.2f}; age={p.age_s}" for p in kept
        ],
    }
    return {name: ", ".join(entries) for name, entries in values.items() if entries}


TRAIL = web.RequestKey("trail", Trail)


def trail_of(request: web.Request) -> Trail:
    """The request's, begun with the first question for it."""
    trail = request.get(TRAIL)
    if trail is None:
        trail = request[TRAIL] = Trail()
    return trail


def _safe(text: str) -> str:
    """Without what would end a header's value, a part of it, or a quoted text."""
    return _UNSAFE.sub("_", text)


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.3f}".rstrip("0").rstrip(".")
