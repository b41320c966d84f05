"""Named keys in SQL: who they are for and what they may do, never the keys themselves.

A key is 256 random bits, so one fast hash is enough: nobody can try them all, and a slow hash would
only cost every request. BLAKE3 is keyed with a context of ours, so that the digests of this table
mean nothing to another system that hashes the same string.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from sqlalchemy import BigInteger, Column, Connection, Float, String, Table, insert, select, update
from sqlalchemy.engine import Row

from shoal_common.clock import Clock
from shoal_gateway.database import METADATA, Database
from shoal_gateway.errors import UnknownKey

KEY_PREFIX = "sk-shoal-"
NAME_CHARS_MAX = 100
_KEY_SIZE_BYTES = 32
_KEY_SHAPE = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{43}}")
_DIGEST_CONTEXT = "shoal gateway 2026-11 named API keys"

KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(NAME_CHARS_MAX), nullable=False),
    Column("tenant", String(NAME_CHARS_MAX), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", String(200), nullable=False),
    Column("monthly_token_budget", BigInteger),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
)


@dataclass(frozen=True)
class KeyRecord:
    """A key as the table knows it. Moments are seconds since 1970."""

    key_id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    monthly_token_budget: int | None
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None


@dataclass(frozen=True)
class NewKey:
    """What may be known of a key only once. `secret` is shown and forgotten."""

    record: KeyRecord
    secret: str = field(repr=False)


def looks_like_a_key(value: str) -> bool:
    """Whether it can be one of ours at all; what cannot never reaches the database."""
    return _KEY_SHAPE.fullmatch(value) is not None


def digest_of(secret: str) -> str:
    return blake3(secret.encode(), derive_key_context=_DIGEST_CONTEXT).hexdigest()


class KeyStore:
    """Every method raises DatabaseUnreachable while the database is away."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, name: str, scopes: Sequence[str], budget: int | None, tenant: str = ""
    ) -> NewKey:
        """A new key. Without a `tenant` it has one of its own."""
        key_id = f"key_{secrets.token_hex(8)}"
        secret = _new_secret()
        record = KeyRecord(
            key_id=key_id,
            name=name,
            tenant=tenant or key_id,
            scopes=tuple(scopes),
            monthly_token_budget=budget,
            created_at=self._clock.time(),
        )
        row = {
            "id": key_id,
            "name": name,
            "tenant": record.tenant,
            "digest": digest_of(secret),
            "scopes": " ".join(scopes),
            "monthly_token_budget": budget,
            "created_at": record.created_at,
        }
        await self._database.run(lambda connection: connection.execute(insert(KEYS), row))
        return NewKey(record, secret)

    async def list(self) -> list[KeyRecord]:
        """All keys, revoked ones too, oldest first."""
        query = select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [_record(row) for row in rows]

    async def find(self, digest: str) -> KeyRecord | None:
        """The key with that digest, unless it was revoked."""
        query = select(KEYS).where(KEYS.c.digest == digest, KEYS.c.revoked_at.is_(None))
        row = await self._database.run(lambda connection: connection.execute(query).first())
        return None if row is None else _record(row)

    async def rotate(self, key_id: str) -> NewKey:
        """Another secret for the same key; the old one ends. Raises UnknownKey."""
        secret = _new_secret()
        record = await self._change(key_id, digest=digest_of(secret))
        return NewKey(record, secret)

    async def revoke(self, key_id: str) -> KeyRecord:
        """Raises UnknownKey, also for a key that was revoked before."""
        return await self._change(key_id, revoked_at=self._clock.time())

    async def touch(self, moments: Mapping[str, float]) -> None:
        """Note when keys were last used."""

        def work(connection: Connection) -> None:
            for key_id, moment in moments.items():
                change = update(KEYS).where(KEYS.c.id == key_id).values(last_used_at=moment)
                connection.execute(change)

        await self._database.run(work)

    async def _change(self, key_id: str, **values: Any) -> KeyRecord:
        is_it = (KEYS.c.id == key_id, KEYS.c.revoked_at.is_(None))

        def work(connection: Connection) -> KeyRecord | None:
            if not connection.execute(update(KEYS).where(*is_it).values(**values)).rowcount:
                return None
            return _record(connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one())

        record = await self._database.run(work)
        if record is None:
            raise UnknownKey(key_id)
        return record


def _new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_SIZE_BYTES)


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        key_id=row.id,
        name=row.name,
        tenant=row.tenant,
        scopes=tuple(row.scopes.split()),
        monthly_token_budget=row.monthly_token_budget,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
