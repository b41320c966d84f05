"""What the entropy-drafter says of itself, and whether it is there.

Never delays a request for long: an answer that has grown old is renewed beside the request that
wants it, and a drafter that is away is asked at most once a second. One warning for each outage.
"""

from __future__ import annotations

import asyncio
import logging

from shoal.drafter.v1 import drafter_pb2
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.drafter import Drafter

log = logging.getLogger(__name__)

FRESH_S = 5.0
PAUSE_S = 1.0
# How long a request waits for the first word of a drafter.
WAIT_S = 0.5
_DESCRIBE_TIMEOUT_S = 5.0


class DrafterWatch:
    """Ask `described`; tell `lost` when a call shows that the drafter has gone."""

    def __init__(self, drafter: Drafter, clock: Clock, heavyweight_timeout_s: float) -> None:
        self._drafter = drafter
        self._clock = clock
        self._heavyweight_timeout_s = heavyweight_timeout_s
        self._misfit = ""
        self._said: drafter_pb2.DescribeResponse | None = None
        self._asked_at = 0.0
        self._missed_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def described(self, wait_s: float = WAIT_S) -> drafter_pb2.DescribeResponse | None:
        """What it said within the last seconds; None while it is away."""
        now = self._clock.monotonic()
        if self._said is not None:
            if now - self._asked_at >= FRESH_S:
                self._ask()
            return self._said
        if self._missed_at is None or now - self._missed_at >= PAUSE_S:
            await asyncio.wait({self._ask()}, timeout=wait_s)
            if self._said is None:
                self._miss("TIMEOUT")
        return self._said

    def lost(self, error: ShoalError) -> None:
        """A call has failed as only one to a drafter that is away does."""
        self._miss(error.reason)

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask(self) -> asyncio.Task[None]:
        """The question under way, or a new one."""
        if self._asking is None or self._asking.done():
            self._asked_at = self._clock.monotonic()
            self._asking = asyncio.create_task(self._describe())
        return self._asking

    async def _describe(self) -> None:
        try:
            async with asyncio.timeout(_DESCRIBE_TIMEOUT_S):
                said = await self._drafter.describe()
        except (ShoalError, TimeoutError) as err:
            self._miss(err.reason if isinstance(err, ShoalError) else "TIMEOUT")
            return
        if self._missed_at is not None:
            log.info("drafter is back", extra={"drafter_model": said.model})
        self._missed_at = None
        self._said = said
        self._tell_misfit(said)

    def _tell_misfit(self, said: drafter_pb2.DescribeResponse) -> None:
        """Once for each process of the drafter: it was started with a timeout that cannot work."""
        is_misfit = said.timeout_ms >= self._heavyweight_timeout_s * 1000
        if is_misfit and self._misfit != said.incarnation:
            log.error(
                "drafter_timeout_s is not less than heavyweight_timeout_s, no draft is made",
                extra={
                    "drafter_timeout_s": said.timeout_ms / 1000,
                    "heavyweight_timeout_s": self._heavyweight_timeout_s,
                },
            )
        self._misfit = said.incarnation if is_misfit else ""

    def _miss(self, reason: str) -> None:
        self._said = None
        if self._missed_at is None:
            log.warning("drafter lost, the heavyweight answers alone", extra={"reason": reason})
        self._missed_at = self._clock.monotonic()
