"""Secrets are made once and only their owner may read them."""

import stat
from pathlib import Path

from shoal_cli import secrets_file


def test_secret_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "data" / "fleet_token"
    secret = secrets_file.ensure_secret(path)
    assert len(bytes.fromhex(secret)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secrets_file.ensure_secret(path) == secret


def test_empty_file_gets_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "api_key"
    path.write_text("\n")
    assert secrets_file.ensure_secret(path) == path.read_text().strip() != ""


def test_rewriting_narrows_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "nats.conf"
    path.write_text("old")
    path.chmod(0o644)
    secrets_file.write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
