"""What holds for every route: the key, errors in the route's dialect, counts, one log line.

The one place where a ShoalError becomes an HTTP status.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from shoal_common import log as shoal_log
from shoal_common.clock import Clock
from shoal_common.errors import Internal, InvalidRequest, ShoalError
from shoal_common.ids import new_request_id
from shoal_gateway.access.gate import Gate
from shoal_gateway.access.rates import Allowance
from shoal_gateway.dialects import anthropic_render
from shoal_gateway.dialects.openai_render import error_object
from shoal_gateway.errors import BudgetExceeded, RateLimited, UnknownRoute, WrongMethod
from shoal_gateway.history import Entry, History
from shoal_gateway.http.body import RAW_BODY, body_too_large
from shoal_gateway.http.caller import ALLOWANCE, CALLER
from shoal_gateway.http.cors import is_preflight, preflight_answer
from shoal_gateway.http.providers import SHOWS_ADMINS
from shoal_gateway.http.streaming import STREAM, BegunStream
from shoal_gateway.mcp_server import errors as mcp_errors
from shoal_gateway.metrics import Metrics
from shoal_gateway.providers.errors import reveal

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEALTH_PATHS = frozenset({"/health", "/health/ready"})
# How errors look below a path; everywhere else in OpenAI's shape.
ERROR_SHAPES: dict[str, Callable[[ShoalError], dict[str, Any]]] = {
    "/v1/messages": anthropic_render.error_object,
    "/mcp": mcp_errors.error_object,
}
# Below these paths clients show by a header which dialect they speak.
SHARED_PATHS = "/v1/models"
REQUEST_ID = web.RequestKey("request_id", str)
FAILED = web.RequestKey("failed", bool)
ENTRY = web.RequestKey("entry", Entry)
# Never seen by anyone: the client has gone.
CLIENT_GONE_STATUS = 499


def make_middlewares(
    gate: Gate, history: History, metrics: Metrics, clock: Clock, metrics_path: str = "/metrics"
) -> list[Middleware]:
    """Outermost first. Whoever comes to `metrics_path` or to health needs no key."""
    open_paths = HEALTH_PATHS | {metrics_path}

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request[REQUEST_ID] = new_request_id()
        started_at = clock.monotonic()
        outcome, status = "cancelled", CLIENT_GONE_STATUS
        entry = Entry(request_id, request.method, _route_name(request), clock.time())
        request[ENTRY] = entry
        metrics.running_count += 1
        try:
            with shoal_log.bind(request_id=request_id):
                response = await handler(request)
            outcome = "failed" if request.get(FAILED) else _outcome(response.status)
            status = response.status
            return response
        except ConnectionError:
            # The client left between two writes; its task was not yet cancelled.
            return web.Response(status=CLIENT_GONE_STATUS)
        finally:
            metrics.running_count -= 1
            duration_s = clock.monotonic() - started_at
            metrics.ended(entry.route, outcome, duration_s)
            fields = {"route": entry.route, "outcome": outcome, "request_id": request_id}
            if entry.key_id:
                fields["key_id"] = entry.key_id
            if request.path not in open_paths:
                history.asked(entry, request.get(RAW_BODY, b""))
                history.end(entry, status, outcome, duration_s)
            log.info("request ended", extra=fields | {"duration_s": round(duration_s, 4)})

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path in open_paths:
                return await handler(request)
            gate.require_host(request.host)
            if is_preflight(request):
                return preflight_answer(request)
            await _admit(request, gate)
            # Only now: strangers must not push those who have a key out of the history.
            history.begin(request[ENTRY])
            with gate.place(request.method, request.path):
                return await handler(request)
        except ShoalError as err:
            return await _answer(request, err)
        except web.HTTPException as err:
            return error_response(request, _translate(err, request), err.headers.get("Allow"))
        except ConnectionError:
            raise
        # The outermost loop of a request's task.
        except Exception:
            log.exception("request failed")
            fault = Internal("an internal error; the gateway's log has the details")
            return await _answer(request, fault)

    return [observe, answer_errors]


async def _admit(request: web.Request, gate: Gate) -> None:
    """Leave who asks, and how often they may, with the request."""
    try:
        admission = await gate.admit(
            request.method, request.path, request.headers, request.remote or ""
        )
    except RateLimited as err:
        request[ALLOWANCE] = Allowance(err.limit, 0, err.reset_s, err.retry_after_s)
        raise
    request[CALLER] = admission.caller
    request[ENTRY].caller = admission.caller.name
    request[ENTRY].key_id = admission.caller.key_id
    if admission.allowance is not None:
        request[ALLOWANCE] = admission.allowance


async def _answer(request: web.Request, error: ShoalError) -> web.StreamResponse:
    """An error before the first byte has its own status; a later one is the stream's last event."""
    caller = request.get(CALLER)
    if caller is not None and caller.is_admin and request.app.get(SHOWS_ADMINS):
        reveal(error)
    begun: BegunStream | None = request.get(STREAM)
    if begun is None:
        return error_response(request, error)
    request[FAILED] = True
    log.warning("stream failed", extra={"reason": error.reason})
    return await begun.fail(error)


def error_response(
    request: web.Request, error: ShoalError, allow: str | None = None
) -> web.Response:
    """In the shape that the route's clients read."""
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # Of this service's own errors, and of the router's for a full queue.
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(retry_after_s, int | float):
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    elif error.retryable:
        headers["Retry-After"] = "1"
    if isinstance(position := getattr(error, "queue_position", None), int):
        headers["x-shoal-queue-position"] = str(position)
    if isinstance(error, BudgetExceeded):
        # Clients would try a 429 again, and again.
        headers["x-should-retry"] = "false"
    if allow:
        headers["Allow"] = allow
    shape: Callable[[ShoalError], dict[str, Any]] = error_object
    for prefix, other in ERROR_SHAPES.items():
        if request.path.startswith(prefix):
            shape = other
    if request.path.startswith(SHARED_PATHS) and "anthropic-version" in request.headers:
        shape = anthropic_render.error_object
    body, status = shape(error), error.http_status
    if shape is anthropic_render.error_object:
        body["request_id"] = request.get(REQUEST_ID)
        status = anthropic_render.error_status(error)
    return web.json_response(body, status=status, headers=headers)


def _translate(error: web.HTTPException, request: web.Request) -> ShoalError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return WrongMethod(request.method, request.path, allowed)
    if error.status == 404:
        return UnknownRoute(request.method, request.path)
    if error.status == 413:
        return body_too_large(request.client_max_size)
    return InvalidRequest(error.reason or "the request cannot be read")


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "failed"


def _route_name(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
