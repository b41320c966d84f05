"""The time a request has left, carried from the call that came in to the calls that go out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def remaining_s(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds that the caller still waits; None without a limit."""
    left = context.time_remaining()
    # gRPC reports the absence of a deadline as a time centuries away.
    return None if left is None or left > 1e9 else max(0.0, left)


@contextmanager
def inherited(context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
    """Calls made inside end no later than the call that came in."""
    left = remaining_s(context)
    token = _deadline.set(None if left is None else time.monotonic() + left)
    try:
        yield
    finally:
        _deadline.reset(token)


def effective_timeout(asked_s: float | None) -> float | None:
    """The lesser of what the caller of a stub asks for and what its own caller left it."""
    deadline = _deadline.get()
    if deadline is None:
        return asked_s
    left = max(0.0, deadline - time.monotonic())
    return left if asked_s is None else min(left, asked_s)
