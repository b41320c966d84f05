"""Headers of every answer: security, ids, rates, the way it went."""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web

from shoal_common.clock import Clock
from shoal_gateway.access.rates import Allowance
from shoal_gateway.http.caller import ALLOWANCE
from shoal_gateway.http.cors import allow_origin
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.trail import TRAIL

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' ws: wss:; img-src 'self' data: blob:; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_CLIENT_ID = re.compile(r"[!-~]{1,128}")


def add_headers(app: web.Application, clock: Clock, cors_origins: Sequence[str]) -> None:
    """Give every answer of `app`, streams too, what clients and browsers look for."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        # Without the versions that aiohttp names, and has named by now where a stream begins.
        headers["Server"] = "shoal"
        # OpenAI's clients read the first, Anthropic's the second.
        request_id = request.get(REQUEST_ID, "")
        headers["x-request-id"] = headers["request-id"] = request_id
        _echo_client_id(request, headers)
        allowance = request.get(ALLOWANCE)
        if allowance is not None:
            headers.update(rate_headers(allowance, clock.time()))
        trail = request.get(TRAIL)
        if trail is not None:
            headers.update(trail.headers())
        allow_origin(request, headers, cors_origins)

    app.on_response_prepare.append(prepare)


def rate_headers(allowance: Allowance, now: float) -> dict[str, str]:
    """In OpenAI's words, with a duration, and in Anthropic's, with a moment."""
    reset = _moment(int(now) + math.ceil(allowance.reset_s))
    limit, remaining = str(allowance.limit), str(allowance.remaining)
    return {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": f"{allowance.reset_s:.3f}s",
        "anthropic-ratelimit-requests-limit": limit,
        "anthropic-ratelimit-requests-remaining": remaining,
        "anthropic-ratelimit-requests-reset": reset,
    }


@lru_cache(maxsize=256)
def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _echo_client_id(request: web.Request, headers: MutableMapping[str, str]) -> None:
    """A client finds its own id in a header of its own; ours is never replaced by it."""
    for name in ("x-client-request-id", "x-request-id"):
        value = request.headers.get(name, "")
        if _CLIENT_ID.fullmatch(value):
            headers["x-client-request-id"] = value
            return
