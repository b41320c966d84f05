"""Which models a shard-store announces: engines of these come back when they are asked for."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from shoal.shard_store.v1.announcement_pb2 import ModelAnnouncement
from shoal_common.clock import Clock

SUBJECT = "shoal.model.*.announce"
_MODEL_COUNT_MAX = 1024
# Stores announce every few seconds; one that is only restarted is not taken for gone.
_BELIEVED_S = 30.0


class Stock:
    """What was heard lately. `hear` may be called from another thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_at_s: dict[str, float] = {}

    def hear(self, payload: bytes) -> None:
        """Take in an announcement; what is none says nothing."""
        try:
            model = ModelAnnouncement.FromString(payload).model
        except DecodeError:
            return
        if model in self._heard_at_s or len(self._heard_at_s) < _MODEL_COUNT_MAX:
            self._heard_at_s[model] = self._clock.monotonic()

    def has(self, model: str) -> bool:
        """True while the model is announced."""
        heard_at_s = self._heard_at_s.get(model)
        return heard_at_s is not None and self._clock.monotonic() - heard_at_s < _BELIEVED_S
