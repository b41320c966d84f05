"""Files named by the BLAKE3 of their content.

Owns `<folder>/<digest[:2]>/<digest>`, the unfinished files `<folder>/*.tmp` and the rule that
nothing is read that was not verified. Blocking: call it from a thread. Does not know manifests.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from shoal_shard_store.errors import CorruptBlob, StorageFull, UnknownBlob
from shoal_shard_store.manifest import BlobRef

log = logging.getLogger(__name__)

CHUNK_SIZE_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LOCK_COUNT = 16

_Seen = tuple[int, int, int]


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BlobWriter:
    """A blob in the making; its name is known when its last byte is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._hasher = blake3()
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`. Raises StorageFull."""
        view = memoryview(data)
        self._hasher.update(view)
        self.size_bytes += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as err:
            raise storage_error(err, len(view), self.path.parent) from err

    def seal(self) -> BlobRef:
        """Force the bytes to the disk; nothing can be written after."""
        try:
            os.fsync(self._file.fileno())
        except OSError as err:
            raise storage_error(err, self.size_bytes, self.path.parent) from err
        self._file.close()
        return BlobRef(self._hasher.hexdigest(), self.size_bytes)

    def close(self) -> None:
        self._file.close()


def storage_error(err: OSError, size_bytes: int, folder: Path) -> Exception:
    """StorageFull where that is what the system says, else what it says."""
    if err.errno not in (errno.ENOSPC, errno.EDQUOT):
        return err
    return StorageFull(size_bytes, free_bytes(folder))


def free_bytes(folder: Path) -> int:
    """Room on the disk of `folder` for a user without privileges."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


class BlobStore:
    """Verified reads and atomic writes. Safe to share between threads.

    A blob is hashed on its first read and again whenever its size, time or inode changed. One that
    does not match is renamed `<digest>.quarantine` and is never served.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._verified: dict[str, _Seen] = {}
        self._locks = [threading.Lock() for _ in range(_LOCK_COUNT)]

    def path_of(self, digest: str) -> Path:
        """Where the blob lies or would lie. Raises UnknownBlob for what is no digest."""
        if _DIGEST.fullmatch(digest) is None:
            raise UnknownBlob(digest)
        return self.folder / digest[:2] / digest

    def has(self, ref: BlobRef) -> bool:
        """True when a blob of that name and size is there; its bytes are not read."""
        try:
            return self.path_of(ref.digest).stat().st_size == ref.size_bytes
        except FileNotFoundError:
            return False

    def remove_unfinished(self) -> int:
        """Delete what writers that died left behind; only while nobody writes. Returns how many."""
        leftovers = list(self.folder.glob("*.tmp"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """A new blob; it becomes visible by `keep`, else it is deleted at the end of the block."""
        writer = BlobWriter(self.folder / f"{secrets.token_hex(8)}.tmp")
        try:
            yield writer
        finally:
            writer.close()
            writer.path.unlink(missing_ok=True)

    def keep(self, writer: BlobWriter) -> BlobRef:
        """Seal a blob and give it its name; an older file of that name, good or bad, is replaced.

        Raises StorageFull.
        """
        ref = writer.seal()
        path = self.path_of(ref.digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._lock(ref.digest):
            os.replace(writer.path, path)
            self._quarantine_path(path).unlink(missing_ok=True)
        fsync_folder(path.parent)
        return ref

    def adopt(self, path: Path, ref: BlobRef) -> None:
        """Take in a file of the same disk whose bytes were hashed and forced to it."""
        target = self.path_of(ref.digest)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with self._lock(ref.digest):
            os.replace(path, target)
            self._quarantine_path(target).unlink(missing_ok=True)
        fsync_folder(target.parent)

    def remove(self, digest: str) -> int:
        """Delete a blob, and what of it is in quarantine; returns the bytes freed.

        Who has it open reads on.
        """
        path = self.path_of(digest)
        freed_bytes = 0
        with self._lock(digest):
            for each in (path, self._quarantine_path(path)):
                try:
                    size_bytes = each.stat(follow_symlinks=False).st_size
                    each.unlink()
                    freed_bytes += size_bytes
                except FileNotFoundError:
                    continue
            self._verified.pop(digest, None)
        return freed_bytes

    def used_bytes(self) -> int:
        """Bytes of every file in the store."""
        return folder_bytes(self.folder)

    def open(self, digest: str) -> int:
        """A descriptor of a blob whose bytes were verified; the caller closes it.

        Raises UnknownBlob, or CorruptBlob when it is, or already was, in quarantine.
        """
        path = self.path_of(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as err:
            if self._quarantine_path(path).exists():
                raise CorruptBlob(digest) from err
            raise UnknownBlob(digest) from err
        try:
            self._verify(descriptor, digest, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _verify(self, descriptor: int, digest: str, path: Path) -> None:
        with self._lock(digest):
            seen = _seen(descriptor)
            if self._verified.get(digest) == seen:
                return
            if _hash(descriptor) == digest and _seen(descriptor) == seen:
                self._verified[digest] = seen
                return
            self._verified.pop(digest, None)
            # Only the file that was hashed: a writer may have put a good one in its place.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                os.replace(path, self._quarantine_path(path))
                log.error("blob quarantined", extra={"digest": digest})
        raise CorruptBlob(digest)

    def _lock(self, digest: str) -> threading.Lock:
        return self._locks[int(digest[:2], 16) % _LOCK_COUNT]

    @staticmethod
    def _quarantine_path(path: Path) -> Path:
        return path.with_name(f"{path.name}.quarantine")


def _seen(descriptor: int) -> _Seen:
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns, state.st_ino


def _hash(descriptor: int) -> str:
    hasher = blake3()
    offset_bytes = 0
    while chunk := os.pread(descriptor, CHUNK_SIZE_BYTES, offset_bytes):
        hasher.update(chunk)
        offset_bytes += len(chunk)
    return hasher.hexdigest()
