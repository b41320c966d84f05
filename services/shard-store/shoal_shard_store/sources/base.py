"""What every source of files looks like."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RemoteFile:
    """A file as its source first described it. `etag` tells its content from every other."""

    name: str
    size_bytes: int
    etag: str


class FileSource(Protocol):
    """A place with a model's files."""

    @property
    def name(self) -> str:
        """For people: `hub`, `url`, `folder`."""
        ...

    @property
    def origin(self) -> str:
        """What a person named: `owner/repo`, a URL, a path."""
        ...

    async def files(self) -> Mapping[str, RemoteFile]:
        """What is there, by name. Raises SourceRefused, SourceBusy, SourceBroken."""
        ...

    def read(
        self, file: RemoteFile, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """Exactly `size_bytes` bytes from `offset_bytes` on, in pieces.

        Raises RemoteChanged when the file is another one by now, SourceBusy, SourceBroken (what
        came before is good), SourceLies.
        """
        ...

    async def close(self) -> None: ...


async def read_all(
    source: FileSource, file: RemoteFile, offset_bytes: int, size_bytes: int
) -> bytes:
    """A small range in one piece."""
    return b"".join([piece async for piece in source.read(file, offset_bytes, size_bytes)])
