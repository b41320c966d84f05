"""The key on disk."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from shoal_gateway.auth import load_or_create_key


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
