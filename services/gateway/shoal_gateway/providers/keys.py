"""Keys of providers: from the environment, from `.env`, or set here and then sealed in SQL.

A key that was set wins over the environment's, which wins over `.env`. Replicas see a change
within `FRESH_S` seconds. They must share the file that seals: where a stored key cannot be opened
it counts as missing, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import sqlalchemy
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random
from sqlalchemy import Connection

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.database import METADATA, Database
from shoal_gateway.errors import DatabaseUnreachable
from shoal_gateway.providers.table import Provider

log = logging.getLogger(__name__)

SECRET_FILE_NAME = "provider_keys.key"
FRESH_S = 2.0
READ_TIMEOUT_S = 3.0
Source = Literal["stored", "environment", ".env"]

KEYS = sqlalchemy.Table(
    "provider_keys",
    METADATA,
    sqlalchemy.Column("provider", sqlalchemy.String(64), primary_key=True),
    sqlalchemy.Column("sealed", sqlalchemy.LargeBinary, nullable=False),
    sqlalchemy.Column("changed_at", sqlalchemy.Float, nullable=False),
)
SWITCHES = sqlalchemy.Table(
    "provider_switches",
    METADATA,
    sqlalchemy.Column("name", sqlalchemy.String(64), primary_key=True),
    sqlalchemy.Column("is_on", sqlalchemy.Boolean, nullable=False),
)


class SecretFileBroken(ShoalError):
    """The file that seals the keys is not one of ours."""

    reason = "SECRET_FILE_BROKEN"

    def __init__(self, path: Path, size_bytes: int) -> None:
        super().__init__(
            f"{path} holds {size_bytes} bytes, {SecretBox.KEY_SIZE} are wanted; restore it, or "
            "delete it and set the providers' keys again"
        )


@dataclass(frozen=True)
class FoundKey:
    """A key and where it comes from."""

    value: str = field(repr=False)
    source: Source


class ProviderKeys:
    """The keys as they stand. `found` are those of the environment, by variable."""

    def __init__(
        self, database: Database, secret_path: Path, found: Mapping[str, FoundKey], clock: Clock
    ) -> None:
        self._database = database
        self._secret_path = secret_path
        self._found = found
        self._clock = clock
        self._stored: dict[str, str] = {}
        self._switches: dict[str, bool] = {}
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Read what is stored, if that was not done just now. Never raises for the database."""
        if self._is_fresh():
            return
        async with self._lock:
            if self._is_fresh():
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    sealed, self._switches = await self._database.run(_read)
                self._stored = await asyncio.to_thread(self._open_all, sealed)
            except (DatabaseUnreachable, TimeoutError):
                # What was known stays true for as long as nobody says otherwise.
                log.warning("stored provider keys unread")
            self._read_at = self._clock.monotonic()

    def key_of(self, provider: Provider) -> FoundKey | None:
        """As of the last `refresh`."""
        if stored := self._stored.get(provider.name):
            return FoundKey(stored, "stored")
        found = [self._found[name] for name in provider.key_variables if name in self._found]
        # A variable of the environment wins over another one's in `.env`.
        return min(found, key=lambda key: key.source == ".env", default=None)

    def variable(self, name: str) -> str:
        """The value of a variable that a cloud model names; "" if it is not set."""
        return self._found[name].value if name in self._found else ""

    def switch(self, name: str) -> bool | None:
        """As of the last `refresh`; None if nobody set it."""
        return self._switches.get(name)

    async def store(self, keys: Mapping[str, str | None], switches: Mapping[str, bool]) -> None:
        """Set keys and switches, in one transaction; None or "" takes a stored key away.

        Raises DatabaseUnreachable, SecretFileBroken.
        """
        box: SecretBox | None = None
        if any(keys.values()):
            box = SecretBox(await asyncio.to_thread(load_or_create_secret, self._secret_path))
        now = self._clock.time()

        def write(connection: Connection) -> None:
            for provider, key in keys.items():
                connection.execute(KEYS.delete().where(KEYS.c.provider == provider))
                if key and box is not None:
                    connection.execute(
                        KEYS.insert().values(
                            provider=provider,
                            sealed=bytes(box.encrypt(_labelled(provider, key))),
                            changed_at=now,
                        )
                    )
            for name, is_on in switches.items():
                connection.execute(SWITCHES.delete().where(SWITCHES.c.name == name))
                connection.execute(SWITCHES.insert().values(name=name, is_on=is_on))

        await self._database.run(write)
        self._read_at = None
        await self.refresh()

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at < FRESH_S

    def _open_all(self, sealed: Mapping[str, bytes]) -> dict[str, str]:
        opened = {}
        for provider, data in sealed.items():
            try:
                box = SecretBox(_read_secret(self._secret_path))
                label, _, key = box.decrypt(data).decode().partition("\n")
            except (CryptoError, SecretFileBroken, OSError) as err:
                fields = {"provider": provider, "reason": type(err).__name__}
                log.error("stored provider key unreadable", extra=fields)
                continue
            if label == provider:
                opened[provider] = key
        return opened


def load_or_create_secret(path: Path) -> bytes:
    """The bytes that seal; makes a file of mode 0600 where there is none.

    Raises SecretFileBroken.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(random(SecretBox.KEY_SIZE))
        try:
            # Unlike a rename it keeps what another replica has just put there.
            os.link(temporary, path)
        except FileExistsError:
            log.debug("secret made by another replica")
        finally:
            temporary.unlink()
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) != SecretBox.KEY_SIZE:
        raise SecretFileBroken(path, len(secret))
    return secret


def _labelled(provider: str, key: str) -> bytes:
    """With the provider's name inside, so that rows cannot be swapped."""
    return f"{provider}\n{key}".encode()


def _read(connection: Connection) -> tuple[dict[str, bytes], dict[str, bool]]:
    keys = connection.execute(sqlalchemy.select(KEYS.c.provider, KEYS.c.sealed)).all()
    switches = connection.execute(sqlalchemy.select(SWITCHES.c.name, SWITCHES.c.is_on)).all()
    return {name: bytes(data) for name, data in keys}, {name: is_on for name, is_on in switches}
