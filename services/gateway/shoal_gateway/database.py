"""The gateway's tables in SQLite or PostgreSQL: what must outlive every process.

Owns the connection and the list of tables; each table belongs to the module that declares it on
`METADATA`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from shoal_gateway.errors import DatabaseUnreachable

METADATA = MetaData()
# How long a request waits to be admitted.
ADMIT_TIMEOUT_S = 5.0

T = TypeVar("T")


class Database:
    """A pool of connections, used from threads so that the event loop never waits for a disk."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)

    async def start(self) -> None:
        """Make the tables that are missing. Raises DatabaseUnreachable."""
        await self.run(METADATA.create_all)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction; it is rolled back if it raises.

        Raises DatabaseUnreachable, and what `work` raises.
        """

        def transact() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        try:
            return await asyncio.to_thread(transact)
        except OperationalError as err:
            raise DatabaseUnreachable from err

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.dispose)


async def in_time(work: Awaitable[T]) -> T:
    """What `work` brings within ADMIT_TIMEOUT_S. Raises DatabaseUnreachable after it."""
    try:
        async with asyncio.timeout(ADMIT_TIMEOUT_S):
            return await work
    except TimeoutError as err:
        raise DatabaseUnreachable from err


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return f"sqlite:///{path}"


def _engine(url: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=True)
    if make_url(url).get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def set_up(connection: object, record: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA busy_timeout=5000")
            cursor.close()

    return engine
