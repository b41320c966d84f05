"""Calls to other services whose errors a client must not take for its own fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from shoal_common.driving.errors import PeerRefused, PeerUnreachable
from shoal_common.errors import Unauthenticated, Unavailable
from shoal_common.rpc import translated


@contextmanager
def asking(peer: str) -> Iterator[None]:
    """Calls inside raise ShoalError, and none that a client would take for its own fault.

    What gRPC itself says of a broken connection holds addresses; clients get a plain sentence.
    """
    try:
        with translated():
            yield
    except Unauthenticated as err:
        raise PeerRefused(peer) from err
    except Unavailable as err:
        if _comes_from_peer(err.__cause__):
            raise
        raise PeerUnreachable(peer) from err


def _comes_from_peer(cause: BaseException | None) -> bool:
    """True when the other side wrote the error, not the connection."""
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    return any(key == "grpc-status-details-bin" for key, _ in cause.trailing_metadata() or ())
