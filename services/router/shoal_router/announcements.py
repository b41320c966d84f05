"""Owns: which models shard-stores can hand out, as they say themselves. Does not know: workers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from shoal.shard_store.v1.announcement_pb2 import ModelAnnouncement
from shoal_common.clock import Clock
from shoal_router.errors import MalformedAnnouncement

log = logging.getLogger(__name__)

SUBJECT = "shoal.model.*.announce"
BYTES_MAX = 4096
NAME_LENGTH_MAX = 256
LAYER_COUNT_MAX = 4096
MODEL_COUNT_MAX = 1024


def parse_announcement(payload: bytes) -> ModelAnnouncement:
    """Raises MalformedAnnouncement for anything that a shard-store would not send."""
    if len(payload) > BYTES_MAX:
        raise MalformedAnnouncement(f"it has {len(payload)} bytes; the limit is {BYTES_MAX} bytes")
    try:
        message = ModelAnnouncement.FromString(payload)
    except DecodeError as err:
        raise MalformedAnnouncement("it is not a ModelAnnouncement message") from err
    for name in (message.store_id, message.model, message.revision):
        if not 0 < len(name) <= NAME_LENGTH_MAX:
            raise MalformedAnnouncement("it lacks a store, model or revision, or has one too long")
    if not 0 < message.layer_count <= LAYER_COUNT_MAX:
        raise MalformedAnnouncement(f"it speaks of {message.layer_count} layers")
    return message


@dataclass(slots=True)
class _Heard:
    message: ModelAnnouncement
    heard_at_s: float


class Announcements:
    """Invariant: per model the word of one store counts, until it falls silent.

    Two stores with two revisions of a model would otherwise take turns.
    """

    def __init__(
        self, clock: Clock, timeout_s: float, model_count_max: int = MODEL_COUNT_MAX
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._model_count_max = model_count_max
        self._heard: dict[str, _Heard] = {}

    def hear(self, message: ModelAnnouncement) -> bool:
        """Takes one checked announcement in; True if it says something new."""
        self._trim()
        known = self._heard.get(message.model)
        if known is None:
            if len(self._heard) >= self._model_count_max:
                return False
            log.info("model announced", extra={"model": message.model})
        elif known.message.store_id != message.store_id:
            return False
        self._heard[message.model] = _Heard(message, self._clock.monotonic())
        return known is None or known.message != message

    def get(self, model: str) -> ModelAnnouncement | None:
        """What can be loaded under this name now."""
        self._trim()
        known = self._heard.get(model)
        return known.message if known else None

    def models(self) -> tuple[str, ...]:
        self._trim()
        return tuple(self._heard)

    def _trim(self) -> None:
        oldest_s = self._clock.monotonic() - self._timeout_s
        for model in [name for name, known in self._heard.items() if known.heard_at_s < oldest_s]:
            del self._heard[model]
            log.info("model no longer announced", extra={"model": model})
