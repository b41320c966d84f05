"""ShoalError to gRPC status with ErrorInfo, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shoal_common.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    Overloaded,
    ShoalError,
    Unauthenticated,
    Unavailable,
)

_DOMAIN = "shoal"
_BY_CODE: dict[grpc.StatusCode, type[ShoalError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def to_status(error: ShoalError) -> grpc.Status:
    """The status that carries an error's reason and its plain fields to the other side."""
    fields = {name: str(value) for name, value in vars(error).items() if value is not None}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata=fields)
    packed = any_pb2.Any()
    packed.Pack(info)
    message = status_pb2.Status(code=error.grpc_code.value[0], message=str(error), details=[packed])
    status: grpc.Status = rpc_status.to_status(message)
    return status


def to_shoal_error(error: grpc.aio.AioRpcError) -> ShoalError:
    """The error the other side raised, by its reason; else the nearest by status code."""
    message = error.details() or error.code().name
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            kind = _kinds().get(info.reason)
            if kind is not None:
                return _rebuild(kind, message, dict(info.metadata))
    return _rebuild(_BY_CODE.get(error.code(), Internal), message, {})


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Calls inside raise ShoalError instead of gRPC's own error."""
    try:
        yield
    except grpc.aio.AioRpcError as err:
        raise to_shoal_error(err) from err


def _kinds() -> dict[str, type[ShoalError]]:
    """Every class of the tree that this process knows, by reason; the highest one wins."""
    found: dict[str, type[ShoalError]] = {}
    level: list[type[ShoalError]] = [ShoalError]
    while level:
        for kind in level:
            found.setdefault(kind.reason, kind)
        level = [child for kind in level for child in kind.__subclasses__()]
    found["INTERNAL"] = Internal
    return found


def _rebuild(kind: type[ShoalError], message: str, fields: dict[str, str]) -> ShoalError:
    """An instance without calling its `__init__`, which wants the original's arguments."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    if issubclass(kind, InvalidRequest):
        error.__dict__["param"] = None
    error.__dict__.update(fields)
    return error
