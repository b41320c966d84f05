"""ShoalError <-> gRPC status with google.rpc.ErrorInfo, both ways.

The class travels as its reason, the message as the status details, and plain fields (text,
numbers, booleans, None) as ErrorInfo metadata in JSON. A receiver that knows the reason raises the
same class, without calling its constructor; one that does not picks a class by status code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from shoal_common.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    ShoalError,
    Unauthenticated,
    Unavailable,
)

DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "shoal"
# Trailers above 8 KiB are refused by peers; the message travels twice, escaped up to threefold.
_MESSAGE_CHARS_MAX = 1024
_FIELD_CHARS_MAX = 256
_FIELD_COUNT_MAX = 8

_CLASS_BY_CODE: dict[grpc.StatusCode, type[ShoalError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def to_status(error: ShoalError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, details and trailing metadata that carry `error`."""
    message = str(error)[:_MESSAGE_CHARS_MAX]
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=_DOMAIN, metadata=_plain_fields(error)
    )
    status = status_pb2.Status(code=error.grpc_code.value[0], message=message)
    status.details.add().Pack(info)
    return error.grpc_code, message, ((DETAILS_KEY, status.SerializeToString()),)


def to_shoal_error(error: grpc.aio.AioRpcError) -> ShoalError:
    """The world error a failed call stands for: by its reason, else by its status code."""
    info = _error_info(error)
    message = error.details() or error.code().name
    if info is not None and info.domain == _DOMAIN:
        known = _class_by_reason(info.reason)
        if known is None:
            # A peer that answered: its words are whole, whatever its code says of connections.
            return _rebuilt(_CLASS_BY_CODE.get(error.code(), Internal), message, {})
        return _rebuilt(known, message, dict(info.metadata))
    return _by_code(error.code(), message)


@contextmanager
def translated() -> Iterator[None]:
    """Calls made inside raise ShoalError where they would raise AioRpcError."""
    try:
        yield
    except grpc.aio.AioRpcError as err:
        raise to_shoal_error(err) from err


def _by_code(code: grpc.StatusCode, message: str) -> ShoalError:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return RequestTooLarge(f"a message between services is too large: {message}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"peer cannot be reached: {message}")
    if code is grpc.StatusCode.CANCELLED:
        # Our own cancelling raises CancelledError; this status comes from a server that stops.
        return Unavailable(f"peer gave the call up, it is stopping: {message}")
    return _rebuilt(_CLASS_BY_CODE.get(code, Internal), message, {})


def _plain_fields(error: ShoalError) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in vars(error).items():
        if name.startswith("_") or not isinstance(value, str | int | float | bool | None):
            continue
        if isinstance(value, str):
            value = value[:_FIELD_CHARS_MAX]
        fields[name] = json.dumps(value)
    return dict(list(fields.items())[:_FIELD_COUNT_MAX])


def _error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            info = error_details_pb2.ErrorInfo()
            if any(detail.Unpack(info) for detail in status.details):
                return info
        except DecodeError:
            return None
    return None


def _class_by_reason(reason: str) -> type[ShoalError] | None:
    """The class that declares `reason` itself; subclasses that inherit it do not count."""
    if reason == Internal.reason:
        return Internal
    waiting = list(ShoalError.__subclasses__())
    while waiting:
        candidate = waiting.pop(0)
        if vars(candidate).get("reason") == reason:
            return candidate
        waiting.extend(candidate.__subclasses__())
    return None


def _rebuilt(kind: type[ShoalError], message: str, fields: dict[str, str]) -> ShoalError:
    """An instance of `kind` made without its constructor, whose arguments did not travel."""
    error = kind.__new__(kind, message)
    if issubclass(kind, InvalidRequest):
        error.__dict__["param"] = None
    for name, text in fields.items():
        # A peer sets data fields only, never methods, `args` or class attributes.
        if not name.isidentifier() or name.startswith("_") or hasattr(kind, name):
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, str | int | float | bool | None):
            error.__dict__[name] = value
    return error
