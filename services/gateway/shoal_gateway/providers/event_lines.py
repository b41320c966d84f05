"""Server-sent events out of bytes as they come. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """`name` is "" where the event has none."""

    name: str
    data: bytes


class TooLarge(ValueError):
    """One event is larger than allowed."""


class EventLines:
    """Feed it chunks of any size; it returns the events that are complete."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []
        self._data_size_bytes = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Raises TooLarge."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            if (event := self._line(line.removesuffix(b"\r"))) is not None:
                events.append(event)
        if len(self._rest) + self._data_size_bytes > self._size_bytes_max:
            raise TooLarge
        return events

    def flush(self) -> list[ServerEvent]:
        """The last event, where the stream ends without its empty line."""
        events = [self._line(self._rest.removesuffix(b"\r")), self._line(b"")]
        self._rest = b""
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_size_bytes += len(value)
        elif field == b"event":
            self._name = value.decode(errors="replace")
        return None

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._data_size_bytes = "", [], 0
        return ServerEvent(name, b"\n".join(data)) if data else None
