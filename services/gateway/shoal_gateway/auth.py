"""The gateway's key: made on first run, kept on disk, compared in constant time."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from shoal_common.errors import Unauthenticated

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


class KeyCheck:
    """Admits a request that shows the key in `Authorization: Bearer` or `x-api-key`."""

    def __init__(self, key: str) -> None:
        assert key, "an empty key would admit everyone"
        self._key = key.encode()

    def require(self, headers: Mapping[str, str]) -> None:
        """Raises Unauthenticated."""
        shown = [headers.get("x-api-key", "").strip()]
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown.append(credentials.strip())
        shown = [value for value in shown if value]
        if not shown:
            raise Unauthenticated(
                "no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        # All are compared, so that the time taken says nothing.
        matches = [
            hmac.compare_digest(value.encode(errors="replace"), self._key) for value in shown
        ]
        if not any(matches):
            raise Unauthenticated("the API key is wrong")
