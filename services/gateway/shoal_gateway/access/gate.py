"""Every rule that a request passes before its handler runs, in one order.

Host, key, scope, rate, room, budget: the cheapest first, and none that needs the body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType

from shoal_common.errors import Overloaded, ShoalError, Unauthenticated
from shoal_gateway.access.budgets import Budgets
from shoal_gateway.access.callers import Caller, Callers, is_below, require_scope
from shoal_gateway.access.hosts import is_allowed_host
from shoal_gateway.access.key_store import KeyStore
from shoal_gateway.access.proxies import Network, bucket_of, client_address
from shoal_gateway.access.rates import Allowance, Buckets, LocalBuckets
from shoal_gateway.errors import WrongHost

log = logging.getLogger(__name__)

BOOKS_INTERVAL_S = 1.0
DRAFT_PATH = "/api/admin/cascade/draft"
"""For admins, but a model answers: limited as other answers are."""
_ANSWERING_PREFIXES = ("/v1", "/mcp", DRAFT_PATH)


@dataclass(frozen=True)
class GateLimits:
    """Requests per minute by path; 0 turns a limit off.

    api: /v1 and /mcp with a named key. house: the same with the house's own key. strangers:
    requests of one address that show no valid key.
    """

    api_rpm: int
    house_rpm: int
    admin_rpm: int
    relay_post_rpm: int
    in_flight_max: int

    @property
    def strangers_rpm(self) -> int:
        return self.api_rpm

    def of(self, caller: Caller, method: str, path: str) -> tuple[str, int]:
        """The bucket's kind and its limit for a request; a limit of 0 is none."""
        if is_below(path, "/api") and path != DRAFT_PATH:
            return "admin", self.admin_rpm
        if is_below(path, "/relay"):
            return "relay", self.relay_post_rpm if method == "POST" else 0
        return "api", self.house_rpm if caller.is_house else self.api_rpm


@dataclass(frozen=True)
class Admission:
    """A request that may go on. `allowance` is None where no limit holds."""

    caller: Caller
    allowance: Allowance | None


class Gate:
    """Admits requests, and keeps the books of what their keys used."""

    def __init__(
        self,
        keys: KeyStore,
        callers: Callers,
        buckets: Buckets,
        strangers: LocalBuckets,
        budgets: Budgets,
        limits: GateLimits,
        allowed_hosts: Sequence[str],
        trusted_proxies: Sequence[Network],
    ) -> None:
        self.keys = keys
        self.callers = callers
        self.budgets = budgets
        self._buckets = buckets
        self._strangers = strangers
        self._limits = limits
        self._allowed_hosts = tuple(allowed_hosts)
        self._trusted_proxies = tuple(trusted_proxies)
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests that hold a place now."""
        return self._in_flight

    def require_host(self, host: str) -> None:
        """Raises WrongHost."""
        if not is_allowed_host(host, self._allowed_hosts):
            raise WrongHost(host)

    async def admit(
        self, method: str, path: str, headers: Mapping[str, str], peer: str
    ) -> Admission:
        """Raises Unauthenticated, ScopeMissing, RateLimited, BudgetExceeded, and
        DatabaseUnreachable."""
        caller = await self._identify(headers, peer)
        require_scope(caller, path)
        kind, limit = self._limits.of(caller, method, path)
        allowance = None
        if limit:
            draw = await self._buckets.take(f"{kind}:{caller.key_id}", limit)
            allowance = Allowance.of(draw, limit)
            if not draw.is_taken:
                raise allowance.refusal()
        if method == "POST" and _is_answering(path):
            await self.budgets.require(caller)
        return Admission(caller, allowance)

    def place(self, method: str, path: str) -> Place:
        """One of the places for requests that models answer, held while its context is open."""
        return Place(self, 1 if method == "POST" and _is_answering(path) else 0)

    def take(self, count: int) -> None:
        """Raises Overloaded."""
        if count and self._in_flight >= self._limits.in_flight_max:
            raise Overloaded(
                f"{self._in_flight} requests are being answered, which is the limit; try again"
            )
        self._in_flight += count

    def give_back(self, count: int) -> None:
        self._in_flight -= count

    async def keep_books(self, stop: asyncio.Event) -> None:
        """Write usage down every second until `stop` is set, and once more then."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(BOOKS_INTERVAL_S):
                    await stop.wait()
            except TimeoutError:
                pass
            try:
                await self.budgets.flush()
                await self.callers.flush()
            except ShoalError as err:
                log.warning("usage not written", extra={"reason": err.reason})

    async def _identify(self, headers: Mapping[str, str], peer: str) -> Caller:
        """Whoever guesses keys is slowed down, by address."""
        bucket = bucket_of(client_address(peer, headers, self._trusted_proxies))
        limit = self._limits.strangers_rpm
        may_look_up = not limit or self._strangers.peek(bucket, limit) >= 1
        try:
            return await self.callers.identify(headers, may_look_up)
        except Unauthenticated:
            if not limit:
                raise
            draw = await self._strangers.take(bucket, limit)
            if not draw.is_taken:
                raise Allowance.of(draw, limit).refusal() from None
            raise


class Place:
    """`count` places of a gate. A class, because every request enters one."""

    __slots__ = ("_count", "_gate")

    def __init__(self, gate: Gate, count: int) -> None:
        self._gate = gate
        self._count = count

    def __enter__(self) -> None:
        self._gate.take(self._count)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gate.give_back(self._count)


@lru_cache(maxsize=1024)
def _is_answering(path: str) -> bool:
    return any(is_below(path, prefix) for prefix in _ANSWERING_PREFIXES)
