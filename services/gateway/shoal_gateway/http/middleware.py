"""What holds for every route: the key, errors in the route's dialect, counts, one log line.

The one place where a ShoalError becomes an HTTP status.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from shoal_common import log as shoal_log
from shoal_common.clock import Clock
from shoal_common.errors import Internal, InvalidRequest, ShoalError
from shoal_common.ids import new_request_id
from shoal_gateway.auth import KeyCheck
from shoal_gateway.dialects import anthropic_render
from shoal_gateway.dialects.openai_render import error_object
from shoal_gateway.errors import UnknownRoute, WrongMethod
from shoal_gateway.http.body import body_too_large
from shoal_gateway.http.streaming import STREAM, BegunStream
from shoal_gateway.metrics import Metrics

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/health", "/health/ready", "/metrics"})
# How errors look below a path; everywhere else in OpenAI's shape.
ERROR_SHAPES: dict[str, Callable[[ShoalError], dict[str, Any]]] = {
    "/v1/messages": anthropic_render.error_object,
}
# Below these paths clients show by a header which dialect they speak.
SHARED_PATHS = "/v1/models"
REQUEST_ID = web.RequestKey("request_id", str)
FAILED = web.RequestKey("failed", bool)
# Never seen by anyone: the client has gone.
CLIENT_GONE_STATUS = 499


def make_middlewares(keys: KeyCheck, metrics: Metrics, clock: Clock) -> list[Middleware]:
    """Outermost first."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request[REQUEST_ID] = new_request_id()
        started_at = clock.monotonic()
        outcome = "cancelled"
        metrics.in_flight.inc()
        try:
            with shoal_log.bind(request_id=request_id):
                response = await handler(request)
            outcome = "failed" if request.get(FAILED) else _outcome(response.status)
            return response
        except ConnectionError:
            # The client left between two writes; its task was not yet cancelled.
            return web.Response(status=CLIENT_GONE_STATUS)
        finally:
            metrics.in_flight.dec()
            duration_s = clock.monotonic() - started_at
            route = _route_name(request)
            metrics.requests.labels(route, outcome).inc()
            metrics.duration.labels(route).observe(duration_s)
            fields = {"route": route, "outcome": outcome, "duration_s": round(duration_s, 4)}
            log.info("request ended", extra=fields | {"request_id": request_id})

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path not in OPEN_PATHS:
                keys.require(request.headers)
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


async def _answer(request: web.Request, error: ShoalError) -> web.StreamResponse:
    """An error before the first byte has its own status; a later one is the stream's last event."""
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
    if error.retryable:
        headers["Retry-After"] = "1"
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
        return body_too_large()
    return InvalidRequest(error.reason or "the request cannot be read")


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "failed"


def _route_name(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
