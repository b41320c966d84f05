"""Tokens per month."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shoal_common.testing.clock import FakeClock
from shoal_gateway.access.budgets import TOTAL_FRESH_S, Budgets
from shoal_gateway.access.callers import HOUSE
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.errors import BudgetExceeded, DatabaseUnreachable

CALLER = replace(
    HOUSE, key_id="key_1", name="ci", tenant="team", is_admin=False, monthly_token_budget=100
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(sqlite_url(tmp_path / "gateway.db"))
    await database.start()
    yield database
    await database.close()


async def test_a_budget_is_used_up_by_prompts_and_answers(database: Database) -> None:
    budgets = Budgets(database, FakeClock())
    await budgets.require(CALLER)
    budgets.count("team", 60, 39)
    await budgets.require(CALLER)
    budgets.count("team", 0, 1)
    with pytest.raises(BudgetExceeded, match="100 of the key's 100 tokens for 2023-11") as raised:
        await budgets.require(CALLER)
    assert (raised.value.http_status, raised.value.retryable) == (429, False)


async def test_a_budget_of_nothing_allows_nothing_and_none_allows_all(database: Database) -> None:
    budgets = Budgets(database, FakeClock())
    with pytest.raises(BudgetExceeded):
        await budgets.require(replace(CALLER, monthly_token_budget=0))
    budgets.count("team", 10**12, 0)
    await budgets.require(replace(CALLER, monthly_token_budget=None))


async def test_tenants_are_counted_apart(database: Database) -> None:
    budgets = Budgets(database, FakeClock())
    budgets.count("other", 1000, 1000)
    assert await budgets.used("team") == 0


async def test_a_new_month_in_utc_starts_anew(database: Database) -> None:
    clock = FakeClock()
    budgets = Budgets(database, clock)
    end = datetime(2023, 12, 1, tzinfo=UTC).timestamp()
    await clock.advance(end - clock.time() - 1)
    assert budgets.month == "2023-11"
    budgets.count("team", 100, 0)
    with pytest.raises(BudgetExceeded):
        await budgets.require(CALLER)
    await clock.advance(1)
    assert budgets.month == "2023-12"
    await budgets.require(CALLER)
    # What was not yet written belongs to the month in which it was used.
    await budgets.flush()
    assert await budgets.used_by_all() == {}
    assert await budgets.used("team") == 0


async def test_replicas_learn_of_each_others_counts(database: Database) -> None:
    clock = FakeClock()
    here, there = Budgets(database, clock), Budgets(database, clock)
    assert await here.used("team") == 0
    there.count("team", 70, 0)
    here.count("team", 0, 50)
    await there.flush()
    await here.flush()
    await clock.advance(TOTAL_FRESH_S)
    assert await here.used("team") == await there.used("team") == 120
    assert await here.used_by_all() == {"team": 120}


async def test_counts_are_written_once(database: Database) -> None:
    budgets = Budgets(database, FakeClock())
    budgets.count("team", 1, 2)
    await budgets.flush()
    await budgets.flush()
    assert await Budgets(database, FakeClock()).used("team") == 3


async def test_counts_wait_for_a_database_that_is_away(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    database = Database(sqlite_url(folder / "gateway.db"))
    clock = FakeClock()
    budgets = Budgets(database, clock)
    budgets.count("team", 1, 2)
    with pytest.raises(DatabaseUnreachable):
        await budgets.flush()
    budgets.count("team", 10, 0)
    folder.mkdir()
    await database.start()
    await budgets.flush()
    assert await Budgets(database, clock).used("team") == 13
    await database.close()
