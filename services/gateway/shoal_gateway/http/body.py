"""Request bodies as JSON objects."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from shoal_common.errors import RequestTooLarge
from shoal_gateway import limits
from shoal_gateway.errors import BodyTooSlow, MalformedBody

# What a line delivers at the least; slower clients are given up.
_BYTES_PER_S_MIN = 256 * 1024


@dataclass(frozen=True)
class BodyLimits:
    """How large, how deep and how late a body may be. `timeout_s`: and a second more for every
    256 KiB that it announces."""

    size_bytes_max: int = limits.BODY_SIZE_BYTES_MAX
    depth_max: int = 100
    timeout_s: float = 30.0


BODY_LIMITS = web.AppKey("body_limits", BodyLimits)
RAW_BODY = web.RequestKey("raw_body", bytes)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedBody, RequestTooLarge, BodyTooSlow.

    Of names that come twice the last counts; integers beyond 64 bits become floats.
    """
    bounds = request.app.get(BODY_LIMITS, BodyLimits())
    raw = request[RAW_BODY] = await _read(request, bounds)
    try:
        # It refuses NaN, halves of surrogate pairs and more than 1,024 levels by itself.
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as err:
        raise MalformedBody(str(err)[:200]) from err
    # Counting bytes is a thousand times faster than walking; few bodies have so many brackets.
    if raw.count(b"[") + raw.count(b"{") > bounds.depth_max:
        _check_depth(body, bounds.depth_max)
    if not isinstance(body, dict):
        raise MalformedBody(f"it is of type {limits.type_name(body)}")
    return body


def body_too_large(size_bytes_max: int = limits.BODY_SIZE_BYTES_MAX) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than {size_bytes_max} bytes; shorten the messages")


async def _read(request: web.Request, bounds: BodyLimits) -> bytes:
    announced = request.content_length
    if announced is not None and announced > bounds.size_bytes_max:
        raise body_too_large(bounds.size_bytes_max)
    if request.content.is_eof():
        return await request.read()
    size_bytes = bounds.size_bytes_max if announced is None else announced
    timeout_s = bounds.timeout_s + size_bytes / _BYTES_PER_S_MIN
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError as err:
        raise BodyTooSlow(request.content.total_bytes, timeout_s) from err


def _check_depth(body: Any, depth_max: int) -> None:
    """Level by level, so that no depth of it costs our own stack. Raises MalformedBody."""
    level = [body]
    for _ in range(depth_max):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    if any(isinstance(value, dict | list) for value in level):
        raise MalformedBody(f"it nests more than {depth_max} objects and arrays")
