"""Files that only their owner may read: made once, then kept."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def ensure_secret(path: Path) -> str:
    """The secret in `path`, made of 32 random bytes in hex (mode 0600) when there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        if secret := path.read_text().strip():
            return secret
    secret = secrets.token_hex(32)
    write_private(path, secret + "\n")
    return secret


def write_private(path: Path, text: str) -> None:
    """Write `text` with mode 0600; readers see the old file or the new one."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    staged.replace(path)
