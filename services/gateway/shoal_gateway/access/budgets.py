"""Tokens per month: counted for each tenant, limited for each key.

Counts gather here and go to SQL every second, so replicas learn of each other's within two; what a
crash loses is the last second's. A request is refused when the budget is used up before it, so
those that run at that moment may exceed it by their own length. Months are UTC's.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import BigInteger, Column, Connection, String, Table, select, text

from shoal_common.clock import Clock
from shoal_gateway.access.callers import Caller
from shoal_gateway.database import METADATA, Database, in_time
from shoal_gateway.errors import BudgetExceeded

TOTAL_FRESH_S = 1.0

USAGE = Table(
    "tenant_usage",
    METADATA,
    Column("tenant", String(100), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
)
# The same words in SQLite and PostgreSQL.
_ADD = text(
    "INSERT INTO tenant_usage (tenant, month, prompt_tokens, completion_tokens)"
    " VALUES (:tenant, :month, :prompt, :completion)"
    " ON CONFLICT (tenant, month) DO UPDATE SET"
    " prompt_tokens = tenant_usage.prompt_tokens + excluded.prompt_tokens,"
    " completion_tokens = tenant_usage.completion_tokens + excluded.completion_tokens"
)

# Tenant and month.
_Account = tuple[str, str]


class Budgets:
    """Counts and refuses. `flush` is called every second by whoever owns this."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._prompt: Counter[_Account] = Counter()
        self._completion: Counter[_Account] = Counter()
        # What is on its way to the database, and counts until it is there.
        self._leaving: Counter[_Account] = Counter()
        self._totals: dict[_Account, tuple[int, float]] = {}

    @property
    def month(self) -> str:
        """The month that counts now, `2026-11`."""
        return _month_of(int(self._clock.time() // 3600))

    def count(self, tenant: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Add what an answer used."""
        account = (tenant, self.month)
        self._prompt[account] += prompt_tokens
        self._completion[account] += completion_tokens

    async def used(self, tenant: str) -> int:
        """Tokens of this month, prompts and answers. Raises DatabaseUnreachable."""
        account = (tenant, self.month)
        total, read_at = self._totals.get(account, (0, float("-inf")))
        now = self._clock.monotonic()
        if now - read_at >= TOTAL_FRESH_S:
            if account in self._totals:
                # Others need not ask for it at the same moment.
                self._totals[account] = (total, now)
            total = await self._database.run(lambda connection: _total(connection, account))
            self._totals[account] = (total, now)
        here = self._prompt[account] + self._completion[account] + self._leaving[account]
        return total + here

    async def used_by_all(self) -> dict[str, int]:
        """Tokens of this month by tenant, as the database knows them."""
        query = select(USAGE.c.tenant, USAGE.c.prompt_tokens + USAGE.c.completion_tokens).where(
            USAGE.c.month == self.month
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return {tenant: int(tokens) for tenant, tokens in rows}

    async def require(self, caller: Caller) -> None:
        """Raises BudgetExceeded, DatabaseUnreachable."""
        budget = caller.monthly_token_budget
        if budget is None:
            return
        used = await in_time(self.used(caller.tenant))
        if used >= budget:
            raise BudgetExceeded(used, budget, self.month)

    async def flush(self) -> None:
        """Add the counts to the database's; kept for the next time if it is away.

        Raises DatabaseUnreachable.
        """
        prompt, self._prompt = self._prompt, Counter()
        completion, self._completion = self._completion, Counter()
        accounts = sorted(prompt.keys() | completion.keys())
        rows = [
            {"tenant": a[0], "month": a[1], "prompt": prompt[a], "completion": completion[a]}
            for a in accounts
            if prompt[a] or completion[a]
        ]
        if not rows:
            return
        self._leaving = prompt + completion
        try:
            await self._database.run(lambda connection: connection.execute(_ADD, rows))
        except BaseException:
            self._prompt.update(prompt)
            self._completion.update(completion)
            raise
        finally:
            self._leaving = Counter()
        for account in accounts:
            self._totals.pop(account, None)


@lru_cache(maxsize=4)
def _month_of(hour: int) -> str:
    """By whole hours since 1970: months begin with one."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m")


def _total(connection: Connection, account: _Account) -> int:
    query = select(USAGE.c.prompt_tokens + USAGE.c.completion_tokens).where(
        USAGE.c.tenant == account[0], USAGE.c.month == account[1]
    )
    return int(connection.execute(query).scalar() or 0)
