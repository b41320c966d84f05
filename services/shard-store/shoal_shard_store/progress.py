"""How far downloads are: plain state that jobs write and people read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from shoal_common.clock import Clock

_SPEED_WINDOW_S = 0.5
_SPEED_WEIGHT = 0.5


class DownloadState(Enum):
    """The life of a download."""

    WAITING = "waiting"
    PLANNING = "planning"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (DownloadState.COMPLETE, DownloadState.FAILED, DownloadState.CANCELLED)


class Meter:
    """Bytes per second, smoothed over about a second; 0 until something was measured."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s = clock.monotonic()
        self._counted = 0
        self._speed = 0.0

    def add(self, size_bytes: int) -> None:
        """Count bytes that arrived now."""
        self._counted += size_bytes
        elapsed_s = self._clock.monotonic() - self._since_s
        if elapsed_s >= _SPEED_WINDOW_S:
            measured = self._counted / elapsed_s
            weight = _SPEED_WEIGHT if self._speed else 1.0
            self._speed += weight * (measured - self._speed)
            self._since_s += elapsed_s
            self._counted = 0

    @property
    def bytes_per_s(self) -> int:
        """0 again when nothing has arrived for a while."""
        silent_s = self._clock.monotonic() - self._since_s
        return 0 if silent_s > 10 * _SPEED_WINDOW_S else int(self._speed)


@dataclass
class ShardProgress:
    """One shard under way. `source` is empty while it waits."""

    name: str
    bytes_total: int
    meter: Meter
    bytes_done: int = 0
    source: str = ""
    retry_count: int = 0


@dataclass
class DownloadProgress:
    """One model's download. Counts cover what is wanted, what was here before included."""

    model: str
    repo: str
    meter: Meter
    state: DownloadState = DownloadState.WAITING
    bytes_total: int = 0
    bytes_kept: int = 0
    """Of shards that are whole."""
    shards_done: int = 0
    shards_total: int = 0
    running: dict[str, ShardProgress] = field(default_factory=dict)
    detail: str = ""
    revision: str = ""

    @property
    def bytes_done(self) -> int:
        return self.bytes_kept + sum(shard.bytes_done for shard in self.running.values())
