"""Which web pages may use the API, and browsers' questions before they ask."""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence

from aiohttp import web

from shoal_gateway.access.hosts import is_allowed_origin

_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_AGE_S = 600
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_\-, ]{1,2000}")
_EXPOSED = ", ".join(
    [
        "x-request-id", "request-id", "x-client-request-id", "retry-after", "x-should-retry",
        "x-shoal-route", "x-shoal-queue-position", "server-timing",
        "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests", "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset",
        "mcp-session-id", "mcp-protocol-version",
    ]
)  # fmt: skip


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a page may ask; it never sends a key with it."""
    is_question = request.method == "OPTIONS" and "Origin" in request.headers
    return is_question and "Access-Control-Request-Method" in request.headers


def preflight_answer(request: web.Request) -> web.Response:
    """What a page of an allowed origin may send; the origin itself is added to every answer."""
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
    }
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(wanted):
        headers["Access-Control-Allow-Headers"] = wanted
    return web.Response(status=204, headers=headers)


def allow_origin(
    request: web.Request, headers: MutableMapping[str, str], origins: Sequence[str]
) -> None:
    """Let the page that asks read the answer, if its origin is allowed."""
    if not origins:
        return
    headers["Vary"] = "Origin"
    origin = request.headers.get("Origin", "")
    if is_allowed_origin(origin, origins):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED
