"""What every dialect's stream can do."""

from __future__ import annotations

from typing import Protocol, TypeVar

from shoal_common.errors import ShoalError

T = TypeVar("T", contravariant=True)


class StreamRenderer(Protocol[T]):
    """One answer as bytes on the wire; made anew for every request."""

    def feed(self, item: T) -> bytes:
        """What an event adds to the stream; b"" for nothing."""
        ...

    def keep_alive(self) -> bytes:
        """What keeps a silent stream open."""
        ...

    def failure(self, error: ShoalError) -> bytes:
        """The stream's last words when it fails midway."""
        ...
