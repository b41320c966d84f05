"""Byte ranges over HTTP, from servers that may be slow, busy, broken or dishonest.

Owns redirects (only to allowed hosts, never from https to http, the token never to another origin),
what a status code means, and the checks of sizes, ranges and ETags. Retries nothing: the caller
knows what else it could do.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from shoal_shard_store.errors import (
    RemoteChanged,
    SourceBroken,
    SourceBusy,
    SourceLies,
    SourceRefused,
    UnsafeRedirect,
)
from shoal_shard_store.sources.base import RemoteFile
from shoal_shard_store.sources.names import is_below

CONNECT_TIMEOUT_S = 15.0
SILENCE_TIMEOUT_S = 30.0
RETRY_AFTER_S_MAX = 120.0
_RETRY_AFTER_S_UNSTATED = 5.0
_REDIRECTS_MAX = 5
_PIECE_SIZE_BYTES = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError, EOFError)


def new_session() -> aiohttp.ClientSession:
    """A session that decides nothing by itself: no cookies, no environment, no decompression."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "shoal-shard-store"},
    )


@dataclass(frozen=True)
class Described:
    """What the answer to a range request says of the whole file."""

    size_bytes: int
    etag: str


class WebReader:
    """Requests to one server and to those that it may redirect to."""

    def __init__(
        self, session: aiohttp.ClientSession, name: str, hosts: tuple[str, ...], token: str = ""
    ) -> None:
        """hosts: where redirects may lead, besides the host that was asked."""
        self._session = session
        self._name = name
        self._hosts = hosts
        self._token = token

    async def get_json_bytes(self, url: str, most_bytes: int) -> bytes:
        """A small document. Raises SourceLies when it is larger than `most_bytes`."""
        async with self._response(url, {}) as (response, _):
            data = bytearray()
            async for piece in self._pieces(response, url):
                data += piece
                if len(data) > most_bytes:
                    raise SourceLies(self._name, url, f"more than {most_bytes} bytes")
            return bytes(data)

    async def describe(self, url: str) -> Described:
        """Size and ETag of a file, by asking for its first byte."""
        async with self._response(url, {"Range": "bytes=0-0"}) as (response, etag):
            if response.status == 200:  # An empty file, or a server without ranges.
                return Described(response.content_length or 0, etag)
            start, stop, size_bytes = self._range_of(response, url)
            if (start, stop) != (0, 1):
                raise SourceLies(self._name, url, "other bytes than were asked for")
            return Described(size_bytes, etag)

    async def read(
        self, url: str, file: RemoteFile, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """A range of a file; see FileSource.read."""
        if size_bytes == 0:
            return
        headers = {"Range": f"bytes={offset_bytes}-{offset_bytes + size_bytes - 1}"}
        async with self._response(url, headers) as (response, etag):
            if etag and file.etag and etag != file.etag:
                raise RemoteChanged(file.name)
            self._check_range(response, url, file, offset_bytes, size_bytes)
            left = size_bytes
            async for piece in self._pieces(response, url):
                if len(piece) > left:
                    raise SourceLies(self._name, file.name, "more bytes than were asked for")
                left -= len(piece)
                yield piece
            if left:
                raise SourceBroken(file.name, f"the connection ended {left} bytes early")

    def _check_range(
        self,
        response: aiohttp.ClientResponse,
        url: str,
        file: RemoteFile,
        offset_bytes: int,
        size_bytes: int,
    ) -> None:
        if response.status == 200:
            is_whole = offset_bytes == 0 and size_bytes == file.size_bytes
            if not is_whole:
                raise SourceLies(self._name, file.name, "the server does not answer byte ranges")
            found = response.content_length
            if found not in (None, size_bytes):
                raise SourceLies(self._name, file.name, _sizes(found or 0, size_bytes))
            return
        start, stop, whole_bytes = self._range_of(response, url)
        if whole_bytes != file.size_bytes:
            raise SourceLies(self._name, file.name, _sizes(whole_bytes, file.size_bytes))
        if (start, stop) != (offset_bytes, offset_bytes + size_bytes):
            raise SourceLies(self._name, file.name, "other bytes than were asked for")

    def _range_of(self, response: aiohttp.ClientResponse, url: str) -> tuple[int, int, int]:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status != 206 or match is None:
            raise SourceLies(self._name, _path_of(url), "an answer to a range without its bounds")
        return int(match[1]), int(match[2]) + 1, int(match[3])

    async def _pieces(
        self, response: aiohttp.ClientResponse, url: str
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.content.iter_chunked(_PIECE_SIZE_BYTES):
                yield piece
        except _BROKEN as err:
            raise SourceBroken(_path_of(url), f"the connection broke ({_word(err)})") from err

    @asynccontextmanager
    async def _response(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str]]:
        """The answer at the end of the redirects, with the file's ETag ("" where none is said)."""
        first, etag = urlsplit(url), ""
        for _ in range(_REDIRECTS_MAX + 1):
            sent = dict(headers)
            here = urlsplit(url)
            if self._token and (here.scheme, here.netloc) == (first.scheme, first.netloc):
                sent["Authorization"] = f"Bearer {self._token}"
            response = await self._send(url, sent)
            try:
                # The hub names the file's own ETag before it redirects; a CDN's is another one.
                etag = etag or _etag(response.headers.get("X-Linked-Etag", ""))
                if response.status in (301, 302, 303, 307, 308):
                    url = self._target(url, response.headers.get("Location", ""), first.hostname)
                    continue
                self._check_status(response, url)
                yield response, etag or _etag(response.headers.get("Etag", ""))
                return
            finally:
                response.close()
        raise UnsafeRedirect(urlsplit(url).hostname or "", f"more than {_REDIRECTS_MAX} in a row")

    async def _send(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        try:
            # Signed URLs hold only to the letter, so nothing in them is escaped anew.
            target = URL(url, encoded=True)
            return await self._session.get(target, headers=headers, allow_redirects=False)
        except _BROKEN as err:
            raise SourceBroken(_path_of(url), f"it cannot be reached ({_word(err)})") from err
        except ValueError as err:  # A URL that is none, in a redirect.
            raise UnsafeRedirect("(no host)", "it is no URL") from err

    def _target(self, url: str, location: str, first_host: str | None) -> str:
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            host = parts.hostname or ""
        except ValueError as err:
            raise UnsafeRedirect("(no host)", "it is no URL") from err
        if not all("!" <= character <= "~" for character in target):
            raise UnsafeRedirect(host, "it is no URL")
        if parts.scheme not in ("http", "https") or not location:
            raise UnsafeRedirect(host, f"'{parts.scheme[:20]}' is no scheme that is followed")
        if urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise UnsafeRedirect(host, "it leads away from https")
        if "@" in parts.netloc or (host != first_host and not is_below(host, self._hosts)):
            raise UnsafeRedirect(host, "that host is not allowed")
        return target

    def _check_status(self, response: aiohttp.ClientResponse, url: str) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status == 429 or status >= 500:
            raise SourceBusy(_path_of(url), status, retry_after_s(response.headers))
        raise SourceRefused(_path_of(url), status)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, at most two minutes; 5 where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        wait_s = float(text[:9])
    else:
        try:
            when = email.utils.parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return _RETRY_AFTER_S_UNSTATED
        moment = when if when.tzinfo else when.replace(tzinfo=UTC)
        wait_s = (moment - datetime.now(UTC)).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def _etag(text: str) -> str:
    return text.strip().removeprefix("W/").strip('"')[:200]


def _path_of(url: str) -> str:
    """A URL without what may be secret in it: presigned queries."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{parts.path}"


def _sizes(found: int, expected: int) -> str:
    return f"the file has {found} bytes there, {expected} were announced"


def _word(err: BaseException) -> str:
    return type(err).__name__
