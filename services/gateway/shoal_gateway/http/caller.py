"""What a handler knows of whoever asks: request[CALLER], and a task in the caller's name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from aiohttp import web

from shoal_common.driving import OPEN, Privacy
from shoal_gateway.access.callers import Caller
from shoal_gateway.access.rates import Allowance
from shoal_gateway.privacy import BOOMERANG_HEADER, LABEL_HEADER, asked_privacy
from shoal_gateway.task import CacheControl, ChatTask

log = logging.getLogger(__name__)

CALLER = web.RequestKey("caller", Caller)
ALLOWANCE = web.RequestKey("allowance", Allowance)
# First match wins; agents send their conversation's id in one of them.
SESSION_HEADERS = ("session-id", "session_id", "x-session-affinity", "x-client-request-id")
_SESSION_CHARS_MAX = 256
_FIELD_NAMES_MAX = 20


@dataclass(frozen=True)
class FieldPolicy:
    """What becomes of body fields that a dialect does not know and did not refuse."""

    unknown: Literal["pass_through", "strip", "reject"] = "pass_through"
    warns: bool = True


FIELD_POLICY = web.AppKey("field_policy", FieldPolicy)
PRIVACY = web.AppKey("privacy", Privacy)


def for_caller(request: web.Request, task: ChatTask) -> ChatTask:
    """The task with its tenant, its session, its privacy and the unknown fields that may pass.

    Every route calls it on every task before it opens answers. Raises InvalidRequest.
    """
    policy = request.app.get(FIELD_POLICY, FieldPolicy())
    extras = task.extras
    if extras and policy.unknown == "strip":
        if policy.warns:
            names = sorted(name[:80] for name in extras)[:_FIELD_NAMES_MAX]
            log.warning("unknown fields stripped", extra={"fields": names})
        extras = {}
    return replace(
        task,
        tenant=request[CALLER].tenant,
        session_id=task.session_id or session_of(request),
        privacy=privacy_of(request),
        cache_control=cache_control_of(request),
        extras=extras,
    )


def passes_unknown(request: web.Request) -> bool:
    """Fields that nobody here knows may go to a provider of the client's own dialect."""
    return request.app.get(FIELD_POLICY, FieldPolicy()).unknown == "pass_through"


def privacy_of(request: web.Request) -> Privacy:
    """How far the headers let the prompt travel, or the house's rule. Raises InvalidRequest."""
    headers = request.headers
    default = request.app.get(PRIVACY, OPEN)
    return asked_privacy(headers.get(LABEL_HEADER), headers.get(BOOMERANG_HEADER), default)


def cache_control_of(request: web.Request) -> CacheControl:
    """What the standard's header asks of kept answers; `max-age=0` finds all of them too old."""
    found = request.headers.getall("Cache-Control", [])
    words = {word.strip().lower() for value in found for word in value.split(",")}
    if "no-store" in words:
        return "no-store"
    return "no-cache" if words & {"no-cache", "max-age=0"} else ""


def session_of(request: web.Request) -> str:
    """The session that the headers name; "" where none does."""
    for name in SESSION_HEADERS:
        value = request.headers.get(name, "").strip()
        if value:
            return value[:_SESSION_CHARS_MAX]
    return ""
