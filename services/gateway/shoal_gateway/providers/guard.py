"""What keeps a failing provider from dragging us along: retries on a budget, a circuit breaker.

Knows time only through the clock; knows no HTTP.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from types import TracebackType

from shoal_common import trace
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.metrics import ProviderMetrics
from shoal_gateway.providers.errors import (
    ProviderAnswerBroken,
    ProviderCrowded,
    ProviderFailed,
    ProviderFault,
    ProviderOverloaded,
    ProviderRefusedKey,
    ProviderSilent,
    ProviderUnreachable,
)

RETRIES_MAX = 2
# As gRPC and Finagle do it: a tenth of the traffic may be retries, and a small start.
RETRY_SHARE = 0.1
RETRY_BALANCE_MAX = 10.0
RETRY_AFTER_S_MAX = 5.0
BACKOFF_S = (0.1, 0.4)
FAILURES_MAX = 3
FAILURE_WINDOW_S = 300.0
COOLDOWN_S = 120.0
BREAKERS_MAX = 1024


class RetryBudget:
    """Every request pays in a share of a retry; a retry takes out one."""

    def __init__(self) -> None:
        self._balance = RETRY_BALANCE_MAX

    def deposit(self) -> None:
        self._balance = min(RETRY_BALANCE_MAX, self._balance + RETRY_SHARE)

    def withdraw(self) -> bool:
        """Whether a retry may be made now."""
        # Ten shares are not quite one in floating point.
        if self._balance < 1.0 - 1e-9:
            return False
        self._balance -= 1.0
        return True


class Breaker:
    """Open after failures in a row: refuses for a while, then lets one request try."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_at: list[float] = []
        self._open_until: float | None = None
        self._is_probing = False

    def wait_s(self) -> float:
        """Seconds until a request may try; 0 admits this one, which must report its end."""
        if self._open_until is None:
            return 0.0
        left_s = self._open_until - self._clock.monotonic()
        if left_s > 0:
            return left_s
        if self._is_probing:
            return 1.0
        self._is_probing = True
        return 0.0

    @property
    def is_open(self) -> bool:
        """No request but one that tries is let through."""
        return self._open_until is not None

    def succeeded(self) -> None:
        self._failed_at.clear()
        self._open_until = None
        self._is_probing = False

    def failed(self) -> None:
        now = self._clock.monotonic()
        recent = [at for at in self._failed_at if now - at < FAILURE_WINDOW_S]
        self._failed_at = [*recent, now]
        if self._is_probing or len(self._failed_at) >= FAILURES_MAX:
            self._open_until = now + COOLDOWN_S
        self._is_probing = False

    def abandoned(self) -> None:
        """The request ended without saying anything about the provider."""
        self._is_probing = False


class Gate:
    """What all requests to one provider share. Breakers are one per model."""

    def __init__(
        self, provider: str, in_flight_max: int, clock: Clock, metrics: ProviderMetrics
    ) -> None:
        self.provider = provider
        self.metrics = metrics
        self.clock = clock
        self.budget = RetryBudget()
        self.in_flight_max = in_flight_max
        self.in_flight = 0
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        metrics.watch(lambda: self.in_flight, lambda: self.open_count)

    @property
    def open_count(self) -> int:
        """Models that are left alone."""
        return sum(breaker.is_open for breaker in self._breakers.values())

    def breaker(self, model: str) -> Breaker:
        breaker = self._breakers.get(model)
        if breaker is None:
            breaker = self._breakers[model] = Breaker(self.clock)
            while len(self._breakers) > BREAKERS_MAX:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(model)
        return breaker

    def request(self, model: str) -> GuardedRequest:
        """One request with its retries, as an async context manager."""
        return GuardedRequest(self, self.breaker(model), model)


class GuardedRequest:
    """Counts itself in and out, and tells the breaker how it went."""

    def __init__(self, gate: Gate, breaker: Breaker, model: str) -> None:
        self._gate = gate
        self._breaker = breaker
        self._model = model
        self._retry_count = 0
        self._is_answered = False

    async def __aenter__(self) -> GuardedRequest:
        """Raises ProviderUnreachable while the breaker is open, ProviderCrowded."""
        gate = self._gate
        if gate.in_flight >= gate.in_flight_max:
            gate.metrics.refused("crowded")
            raise ProviderCrowded(gate.provider, None)
        if wait_s := self._breaker.wait_s():
            gate.metrics.refused("left_alone")
            detail = f"it failed repeatedly; next try in {math.ceil(wait_s)} s"
            raise ProviderUnreachable(gate.provider, detail, retry_after_s=wait_s)
        gate.in_flight += 1
        gate.budget.deposit()
        self._started_at = gate.clock.monotonic()
        self._span = trace.begin("provider", provider=gate.provider, model=self._model)
        return self

    def began(self) -> None:
        """The head of an answer has come."""
        self._gate.metrics.began(self._gate.clock.monotonic() - self._started_at)

    def answered(self) -> None:
        """All that was asked for has come; whoever reads it may leave when they like."""
        self._is_answered = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.in_flight -= 1
        if self._is_answered:
            error = None
        outcome = _outcome(error)
        self._gate.metrics.ended(outcome, self._gate.clock.monotonic() - self._started_at)
        self._span.set_attribute("outcome", outcome)
        self._span.set_attribute("retry_count", self._retry_count)
        if isinstance(error, ShoalError):
            trace.fail(self._span, error)
        self._span.end()
        if isinstance(error, _COUNTED):
            self._breaker.failed()
        elif error is None or isinstance(error, InvalidRequest | ProviderRefusedKey):
            # It answered, if only to refuse.
            self._breaker.succeeded()
        else:
            self._breaker.abandoned()

    async def pause_before_retry(self, error: ShoalError) -> None:
        """Returns when the request may be sent again; raises `error` if it may not."""
        delay_s = self._retry_delay_s(error)
        if delay_s is None or not self._gate.budget.withdraw():
            raise error
        self._retry_count += 1
        self._gate.metrics.retried()
        await self._gate.clock.sleep(delay_s)

    def _retry_delay_s(self, error: ShoalError) -> float | None:
        if self._retry_count >= RETRIES_MAX or not isinstance(error, _RETRIED):
            return None
        asked_s = error.retry_after_s
        if asked_s is not None:
            return asked_s if asked_s <= RETRY_AFTER_S_MAX else None
        # Spread out, so that callers who failed together do not come back together.
        return BACKOFF_S[self._retry_count] * random.uniform(0.5, 1.5)


def _outcome(error: BaseException | None) -> str:
    """One word of a closed set."""
    match error:
        case None:
            return "ok"
        case InvalidRequest():
            return "refused"
        case ProviderRefusedKey():
            return "key_refused"
        case ProviderOverloaded():
            return "overloaded"
        case ProviderFailed():
            return "failed"
    return "cancelled"


_COUNTED = (
    ProviderUnreachable,
    ProviderSilent,
    ProviderFault,
    ProviderAnswerBroken,
)
# A silent one has had its full time already.
_RETRIED: tuple[type[ProviderFailed], ...] = (
    ProviderUnreachable,
    ProviderOverloaded,
    ProviderFault,
    ProviderAnswerBroken,
)
