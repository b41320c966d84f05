"""The house's key on disk, and keys as clients show them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from shoal_gateway.auth import HouseKey, load_or_create_key, shown_keys


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    key = load_or_create_key(data_dir)
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert load_or_create_key(data_dir) == key
    assert stat.S_IMODE((data_dir / "api_key").stat().st_mode) == 0o600
    assert [path.name for path in data_dir.iterdir()] == ["api_key"]


def test_an_empty_key_file_never_means_open(tmp_path: Path) -> None:
    (tmp_path / "api_key").write_text("\n")
    assert len(load_or_create_key(tmp_path)) == 64


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"Authorization": "Bearer one"}, ["one"]),
        ({"Authorization": "bearer  one "}, ["one"]),
        ({"x-api-key": " two "}, ["two"]),
        ({"Authorization": "Bearer one", "x-api-key": "two"}, ["one", "two"]),
        ({"Authorization": "Basic one"}, []),
        ({"Authorization": "Bearer ", "x-api-key": ""}, []),
        ({}, []),
    ],
)
def test_keys_are_read_from_both_headers(headers: dict[str, str], shown: list[str]) -> None:
    assert shown_keys(headers) == shown


def test_the_house_key_is_one_string_and_nothing_else() -> None:
    house = HouseKey("secret")
    assert house.matches(["wrong", "secret"])
    assert not house.matches(["secret ", "", "Secret", "\udc80"])
