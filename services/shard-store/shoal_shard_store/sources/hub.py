"""A Hugging Face hub (or a server with its API), and any HTTP base URL with a model's files."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from shoal_shard_store.errors import SourceLies, SourceRefused
from shoal_shard_store.model_folder import INDEX_FILE, SIDE_FILES, SINGLE_FILE
from shoal_shard_store.sources.base import RemoteFile
from shoal_shard_store.sources.names import (
    check_base_url,
    check_file_name,
    check_repo_id,
    check_revision,
    is_safe_file_name,
)
from shoal_shard_store.sources.web import WebReader

LISTING_SIZE_BYTES_MAX = 32 << 20
FILE_COUNT_MAX = 20_000
FILE_SIZE_BYTES_MAX = 1 << 44


class HubSource:
    """One repository at one commit."""

    name = "hub"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        repo_id: str,
        revision: str = "",
        token: str = "",
        hosts: tuple[str, ...] = (),
    ) -> None:
        """Raises InvalidRepo for names that could lead elsewhere."""
        check_repo_id(repo_id)
        check_revision(revision or "main")
        self.origin = repo_id
        self._endpoint = endpoint
        self._revision = revision or "main"
        self._web = WebReader(session, self.name, hosts, token)

    async def files(self) -> Mapping[str, RemoteFile]:
        """The repository's files at the commit that the revision names now; later reads keep to it.

        Files with names that are not safe are left out.
        """
        revision = self._revision.replace("/", "%2F")
        url = f"{self._endpoint}/api/models/{self.origin}/revision/{revision}?blobs=true"
        document = _object(await self._web.get_json_bytes(url, LISTING_SIZE_BYTES_MAX), self.origin)
        commit, siblings = document.get("sha"), document.get("siblings")
        if not isinstance(commit, str) or not isinstance(siblings, list):
            raise SourceLies(self.name, self.origin, "its listing has no commit or no files")
        if len(siblings) > FILE_COUNT_MAX:
            raise SourceLies(self.name, self.origin, f"it lists more than {FILE_COUNT_MAX} files")
        check_revision(commit)
        self._revision = commit
        found: dict[str, RemoteFile] = {}
        for sibling in siblings:
            file = _described(sibling)
            if file is not None:
                found[file.name] = file
        return found

    async def read(
        self, file: RemoteFile, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """See FileSource."""
        check_file_name(file.name)
        revision = self._revision.replace("/", "%2F")
        url = f"{self._endpoint}/{self.origin}/resolve/{revision}/{file.name}"
        async for piece in self._web.read(url, file, offset_bytes, size_bytes):
            yield piece

    async def close(self) -> None:
        """Nothing of its own is open."""


class UrlSource:
    """A folder of files on a web server that answers byte ranges."""

    name = "url"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        file: str = "",
        allowed: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
    ) -> None:
        """file: a GGUF file to look for in place of a model's folder. Raises InvalidRepo."""
        check_base_url(base_url, allowed)
        self.origin = base_url.rstrip("/")
        self._file = file
        self._web = WebReader(session, self.name, hosts)

    async def files(self) -> Mapping[str, RemoteFile]:
        """Those of the known names that the server has."""
        names = [self._file] if self._file else [*SIDE_FILES, SINGLE_FILE, INDEX_FILE]
        found = {name: await self._described(name) for name in names}
        if found.get(INDEX_FILE) is not None:
            for name in await self._indexed(found[INDEX_FILE]):
                found[name] = await self._described(name)
        return {name: file for name, file in found.items() if file is not None}

    async def _indexed(self, index: RemoteFile | None) -> list[str]:
        assert index is not None
        url = f"{self.origin}/{INDEX_FILE}"
        raw = await self._web.get_json_bytes(url, LISTING_SIZE_BYTES_MAX)
        weight_map = _object(raw, INDEX_FILE).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else ()
        return sorted({name for name in names if isinstance(name, str) and is_safe_file_name(name)})

    async def _described(self, name: str) -> RemoteFile | None:
        check_file_name(name)
        try:
            described = await self._web.describe(f"{self.origin}/{name}")
        except SourceRefused as err:
            if err.status == 404:
                return None
            raise
        # Without an ETag the size alone must tell two files apart.
        return RemoteFile(name, described.size_bytes, described.etag)

    async def read(
        self, file: RemoteFile, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """See FileSource."""
        check_file_name(file.name)
        url = f"{self.origin}/{file.name}"
        async for piece in self._web.read(url, file, offset_bytes, size_bytes):
            yield piece

    async def close(self) -> None:
        """Nothing of its own is open."""


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise SourceLies("hub", what, "its listing is not JSON") from err
    if not isinstance(value, dict):
        raise SourceLies("hub", what, "its listing is not a JSON object")
    return value


def _described(sibling: object) -> RemoteFile | None:
    """A file of the hub's listing; None for one that cannot be used."""
    if not isinstance(sibling, dict):
        return None
    name, lfs = sibling.get("rfilename"), sibling.get("lfs")
    large = lfs if isinstance(lfs, dict) else {}
    size_bytes = large.get("size", sibling.get("size"))
    etag = large.get("sha256") or large.get("oid") or sibling.get("blobId") or ""
    if (
        not isinstance(name, str)
        or not is_safe_file_name(name)
        or type(size_bytes) is not int
        or not 0 <= size_bytes <= FILE_SIZE_BYTES_MAX
        or not isinstance(etag, str)
    ):
        return None
    return RemoteFile(name, size_bytes, etag[:200])
