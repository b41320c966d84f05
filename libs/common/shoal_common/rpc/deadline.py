"""What is left of a call's time.

Inside a handler, unary calls to further peers get at most what is left of the handler's own time.
Calls that stream their answer do not: links between stages are held open far longer than the
request that opened them. Give those `timeout=remaining_s(context)` where they belong to a request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc

_ends_at: ContextVar[float | None] = ContextVar("shoal_deadline", default=None)


def remaining_s(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds the caller still waits for this call, never negative; None when without end."""
    left: float | None = context.time_remaining()
    # gRPC reports the absence of a deadline as a time centuries away.
    return None if left is None or left > 1e9 else max(0.0, left)


@contextmanager
def deadline(timeout_s: float | None) -> Iterator[None]:
    """Bound every unary call made inside to `timeout_s` seconds from now.

    An outer deadline that ends sooner stays in force. None lifts all: for work that outlives the
    request that started it.
    """
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    outer = _ends_at.get()
    if ends_at is not None and outer is not None:
        ends_at = min(ends_at, outer)
    token = _ends_at.set(ends_at)
    try:
        yield
    finally:
        _ends_at.reset(token)


def shortened(timeout_s: float | None) -> float | None:
    """`timeout_s`, or what is left of the surrounding deadline if that is less."""
    ends_at = _ends_at.get()
    if ends_at is None:
        return timeout_s
    left = max(0.0, ends_at - time.monotonic())
    return left if timeout_s is None else min(left, timeout_s)
