"""Which machine this process runs on.

Workers and drivers compare it: with the same id they share a machine, and what passes between
them never leaves it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

# The kernel's own id first: all containers of a machine share it, and none has it built in, while
# images that were cloned carry the same machine-id to every machine.
_ID_FILES = (Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id"))
_DIGEST_BYTES = 8


def host_id(id_files: Sequence[Path] = _ID_FILES) -> str:
    """16 hex digits: the same for all processes of a machine until it restarts.

    A hash, so that nothing else can be looked up by it.
    """
    identity = _first_text(id_files) or f"{uuid.getnode():012x}"
    return hashlib.blake2b(
        identity.encode(), digest_size=_DIGEST_BYTES, person=b"shoal host"
    ).hexdigest()


def _first_text(paths: Sequence[Path]) -> str:
    for path in paths:
        try:
            text = path.read_text().strip()
        except (OSError, ValueError):
            continue
        if text:
            return text
    return ""
