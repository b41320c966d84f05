"""Files of a folder that may be imported, as a source: a GGUF file on this machine."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from shoal_shard_store.errors import RemoteChanged, UntrustedFolder
from shoal_shard_store.sources.base import RemoteFile

_PIECE_SIZE_BYTES = 1 << 20


class FolderSource:
    """One plain file. Links are not followed."""

    name = "folder"

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self._path = path

    async def files(self) -> Mapping[str, RemoteFile]:
        """The file, if it is one. Raises UntrustedFolder."""
        state = await asyncio.to_thread(self._state)
        file = RemoteFile(self._path.name, state.st_size, _etag(state))
        return {file.name: file}

    async def read(
        self, file: RemoteFile, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """See FileSource."""
        descriptor = await asyncio.to_thread(self._open)
        try:
            stop = offset_bytes + size_bytes
            while offset_bytes < stop:
                if _etag(os.fstat(descriptor)) != file.etag:
                    raise RemoteChanged(file.name)
                most = min(_PIECE_SIZE_BYTES, stop - offset_bytes)
                piece = await asyncio.to_thread(os.pread, descriptor, most, offset_bytes)
                if not piece:
                    raise RemoteChanged(file.name)
                offset_bytes += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _state(self) -> os.stat_result:
        descriptor = self._open()
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        name = self._path.name
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags)
        except OSError as err:
            raise UntrustedFolder(
                name, f"unreadable ({err.strerror})", "name the file itself, not a link to it"
            ) from err
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UntrustedFolder(name, "not a regular file", "name a file")
        return descriptor


def _etag(state: os.stat_result) -> str:
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}"
