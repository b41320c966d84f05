"""The house's own key: made on first run, kept on disk, compared in constant time."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

KEY_FILE_NAME = "api_key"
KEY_SIZE_BYTES = 32


def load_or_create_key(data_dir: Path) -> str:
    """Returns the key in `data_dir`/api_key; makes a file of mode 0600 where there is none.

    An empty file is replaced: an empty key never means open.
    """
    path = data_dir / KEY_FILE_NAME
    data_dir.mkdir(parents=True, exist_ok=True)
    if path.exists() and (key := path.read_text().strip()):
        return key
    key = secrets.token_hex(KEY_SIZE_BYTES)
    temporary = path.with_name(f".{KEY_FILE_NAME}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    temporary.replace(path)
    return key


class HouseKey:
    """The key of whoever runs the gateway: it may do everything."""

    def __init__(self, key: str) -> None:
        assert key, "an empty key would admit everyone"
        self._key = key.encode()

    def matches(self, shown: Sequence[str]) -> bool:
        """Whether one of the shown keys is it."""
        # All are compared, so that the time taken says nothing.
        matches = [
            hmac.compare_digest(value.encode(errors="replace"), self._key) for value in shown
        ]
        return any(matches)


def shown_keys(headers: Mapping[str, str]) -> list[str]:
    """The keys in `Authorization: Bearer` and `x-api-key`, those that are not empty."""
    shown = []
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        shown.append(credentials.strip())
    shown.append(headers.get("x-api-key", "").strip())
    return [value for value in shown if value]
