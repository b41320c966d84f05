"""When a store is asked no more for a while, and what is said about it."""

from __future__ import annotations

import logging

from shoal_common.clock import Clock
from shoal_entropy_drafter.cache.base import Store

log = logging.getLogger(__name__)

FAILURES_MAX = 3
RETRY_AFTER_S = 5.0


class Outage:
    """One store: asked until it fails `FAILURES_MAX` times in a row, then once in a while.

    One warning is logged when an outage begins and one line when it is over.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._failure_count = 0
        self._since: float | None = None
        self._retry_at = 0.0

    @property
    def is_on(self) -> bool:
        return self._since is not None

    def may_ask(self) -> bool:
        """Whether to ask the store now; during an outage yes once in `RETRY_AFTER_S`."""
        if self._since is None:
            return True
        now = self._clock.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + RETRY_AFTER_S
        return True

    def failed(self, problem: str) -> None:
        """A call failed or came too late."""
        self._failure_count += 1
        if self._since is None and self._failure_count >= FAILURES_MAX:
            self.begin(problem)

    def begin(self, problem: str) -> None:
        """Ask no more for a while."""
        now = self._clock.monotonic()
        self._retry_at = now + RETRY_AFTER_S
        if self._since is None:
            self._since = now
            log.warning(
                "cache store is away, requests go on without it",
                extra={"store": self._store, "problem": problem},
            )

    def answered(self) -> None:
        """A call came back."""
        self._failure_count = 0
        if self._since is None:
            return
        duration_s = self._clock.monotonic() - self._since
        self._since = None
        log.info(
            "cache store is back",
            extra={"store": self._store, "duration_s": round(duration_s, 3)},
        )
