"""A shard that is still arriving.

Owns `<folder>/<key>.part` and `<key>.mark`: every few MiB, and when the file is closed, the bytes
are forced to the disk and the mark says how many there are and what their BLAKE3 is. After a crash
the file is read again up to the mark; what lies behind it, or does not match, is cut off. Blocking:
call it from a thread.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path

from blake3 import blake3

from shoal_shard_store.blob_store import CHUNK_SIZE_BYTES, BlobStore, storage_error
from shoal_shard_store.errors import UntrustedFolder
from shoal_shard_store.manifest import BlobRef

log = logging.getLogger(__name__)

MARK_INTERVAL_BYTES = 16 << 20


class PartialShard:
    """The unfinished file of one shard. `size_bytes` are here and hashed."""

    def __init__(
        self, folder: Path, key: str, mark_interval_bytes: int = MARK_INTERVAL_BYTES
    ) -> None:
        self._path = folder / f"{key}.part"
        self._mark_path = folder / f"{key}.mark"
        self._quarantine_path = folder / f"{key}.quarantine"
        self._mark_interval_bytes = mark_interval_bytes
        self._marked_bytes = 0
        self._descriptor = -1
        self._hasher = blake3()
        self.size_bytes = 0

    def open(self) -> int:
        """Go on where the last mark was; returns how many bytes are here. Raises StorageFull."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as err:
            if err.errno == errno.ELOOP:
                raise _not_plain(self._path) from err
            raise storage_error(err, 0, self._path.parent) from err
        state = os.fstat(self._descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            self.close()
            raise _not_plain(self._path)
        self._resume()
        return self.size_bytes

    def _resume(self) -> None:
        size_bytes, digest = self._mark()
        while self.size_bytes < size_bytes:
            most = min(CHUNK_SIZE_BYTES, size_bytes - self.size_bytes)
            chunk = os.pread(self._descriptor, most, self.size_bytes)
            if not chunk:
                break
            self._hasher.update(chunk)
            self.size_bytes += len(chunk)
        if self.size_bytes != size_bytes or self._hasher.hexdigest() != digest:
            if size_bytes:
                log.warning("unfinished shard was damaged", extra={"size_bytes": size_bytes})
            self._hasher, self.size_bytes = blake3(), 0
        self._marked_bytes = self.size_bytes
        os.ftruncate(self._descriptor, self.size_bytes)

    def _mark(self) -> tuple[int, str]:
        try:
            mark = json.loads(self._mark_path.read_bytes())
            size_bytes, digest = mark["size_bytes"], mark["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""
        is_sound = type(size_bytes) is int and size_bytes >= 0 and isinstance(digest, str)
        return (size_bytes, digest) if is_sound else (0, "")

    def append(self, data: bytes | bytearray) -> None:
        """Add bytes at the end. Raises StorageFull; what was marked before is still there."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.size_bytes)
                self._hasher.update(view[:written])
                self.size_bytes += written
                view = view[written:]
            if self.size_bytes - self._marked_bytes >= self._mark_interval_bytes:
                self.mark()
        except OSError as err:
            raise storage_error(err, len(view), self._path.parent) from err

    def mark(self) -> None:
        """Make what is here survive a crash; nothing when it is closed. Raises StorageFull."""
        if self.size_bytes == self._marked_bytes or self._descriptor < 0:
            return
        unfinished = self._mark_path.with_suffix(".tmp")
        mark = {"size_bytes": self.size_bytes, "digest": self._hasher.hexdigest()}
        try:
            os.fsync(self._descriptor)
            unfinished.write_text(json.dumps(mark))
            os.replace(unfinished, self._mark_path)
        except OSError as err:
            raise storage_error(err, self.size_bytes, self._path.parent) from err
        self._marked_bytes = self.size_bytes

    def digest(self) -> str:
        """BLAKE3 of what is here, hex."""
        return self._hasher.hexdigest()

    def finish(self, blobs: BlobStore) -> BlobRef:
        """Make it a blob. Raises StorageFull."""
        ref = BlobRef(self.digest(), self.size_bytes)
        try:
            os.fsync(self._descriptor)
        except OSError as err:
            raise storage_error(err, self.size_bytes, self._path.parent) from err
        self.close()
        blobs.adopt(self._path, ref)
        self._mark_path.unlink(missing_ok=True)
        self._quarantine_path.unlink(missing_ok=True)
        return ref

    def quarantine(self) -> None:
        """Put wrong bytes aside for somebody to look at, and begin anew."""
        self.close()
        os.replace(self._path, self._quarantine_path)
        self._mark_path.unlink(missing_ok=True)
        self._hasher, self.size_bytes, self._marked_bytes = blake3(), 0, 0
        self.open()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _not_plain(path: Path) -> UntrustedFolder:
    return UntrustedFolder(path.name, "not a plain file of its own", "remove it and try again")
