"""Keys of providers, as several replicas see them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_common.testing.clock import FakeClock
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.providers.keys import (
    FRESH_S,
    FoundKey,
    ProviderKeys,
    SecretFileBroken,
    load_or_create_secret,
)
from shoal_gateway.providers.table import BY_NAME

OPENAI, NVIDIA = BY_NAME["openai"], BY_NAME["nvidia"]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(sqlite_url(tmp_path / "gateway.db"))
    await database.start()
    yield database
    await database.close()


async def test_other_replicas_see_a_change_within_seconds(
    database: Database, tmp_path: Path
) -> None:
    clock = FakeClock()
    one, other = (ProviderKeys(database, tmp_path / "key", {}, clock) for _ in range(2))
    await other.refresh()
    await one.store({"openai": "sk-1"}, {"claude": True})
    await other.refresh()
    assert other.key_of(OPENAI) is None
    await clock.advance(FRESH_S)
    await other.refresh()
    assert other.key_of(OPENAI) == FoundKey("sk-1", "stored")
    assert other.switch("claude") is True
    await one.store({"openai": None}, {})
    await clock.advance(FRESH_S)
    await other.refresh()
    assert other.key_of(OPENAI) is None
    assert "sk-1" not in repr(FoundKey("sk-1", "stored"))


async def test_a_row_moved_to_another_provider_opens_nothing(
    database: Database, tmp_path: Path
) -> None:
    clock = FakeClock()
    keys = ProviderKeys(database, tmp_path / "key", {}, clock)
    await keys.store({"openai": "sk-1"}, {})
    await database.run(
        lambda connection: connection.exec_driver_sql(
            "UPDATE provider_keys SET provider = 'nvidia'"
        )
    )
    await clock.advance(FRESH_S)
    await keys.refresh()
    assert keys.key_of(NVIDIA) is None


async def test_a_lost_secret_is_not_made_anew_behind_stored_keys(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    path = tmp_path / "key"
    await ProviderKeys(database, path, {}, clock).store({"openai": "sk-1"}, {})
    path.unlink()
    keys = ProviderKeys(database, path, {}, clock)
    with caplog.at_level(logging.ERROR):
        await keys.refresh()
    assert "stored provider key unreadable" in caplog.text
    assert keys.key_of(OPENAI) is None
    assert not path.exists()


async def test_the_environment_wins_over_the_file_whatever_the_variable(
    database: Database, tmp_path: Path
) -> None:
    found = {
        "NVIDIA_API_KEY": FoundKey("file", ".env"),
        "NVIDIA_NIM_API_KEY": FoundKey("environment", "environment"),
    }
    keys = ProviderKeys(database, tmp_path / "key", found, FakeClock())
    assert keys.key_of(NVIDIA) == found["NVIDIA_NIM_API_KEY"]
    assert keys.variable("NVIDIA_API_KEY") == "file"
    assert keys.variable("OTHER") == ""


def test_a_secret_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    with pytest.raises(SecretFileBroken, match="5 bytes, 32 are wanted"):
        load_or_create_secret(path)
