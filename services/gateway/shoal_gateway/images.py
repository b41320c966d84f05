"""Images that a request names by URL, fetched before the task is opened.

A URL is a stranger's wish that this machine talks to somewhere: only public addresses are
connected to, those that were checked and no others, without redirects, within bounds of time and
size, and what comes must be an image by its first bytes. Refusals do not say what an inner name
resolves to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.task import ChatTask, Image, Message

log = logging.getLogger(__name__)

URL_COUNT_MAX = 16
TOTAL_SIZE_BYTES_MAX = 2 * limits.IMAGE_SIZE_BYTES_MAX
CHUNK_SIZE_BYTES = 64 * 1024
# Public by their number, yet a cloud's own machines and relays of old protocols answer there.
REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")
)
UNICAST_NETWORK = ipaddress.ip_network("2000::/3")
# Leads to the IPv4 address that its last 32 bits are.
NAT64_NETWORK = ipaddress.ip_network("64:ff9b::/96")


class ImageUrlRefused(InvalidRequest):
    """An image's URL is not fetched, or gave no image."""

    reason = "IMAGE_URL_REFUSED"

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"the image URL in '{param}' {problem}", param=param)


def is_public(address: str) -> bool:
    """Whether strangers may send us there. Pure; False for what is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped
        if parsed in NAT64_NETWORK:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is None:
            is_tunnel = parsed.sixtofour is not None or parsed.teredo is not None
            return parsed in UNICAST_NETWORK and parsed.is_global and not is_tunnel
        parsed = inner
    is_special = parsed.is_multicast or parsed.is_reserved
    is_refused = any(parsed in network for network in REFUSED_NETWORKS)
    return parsed.is_global and not is_special and not is_refused


def media_type_of(data: bytes) -> str | None:
    """By the first bytes; None when it is none of the images that models read."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


class ImageUrls:
    """Fetches what tasks name by URL. Close it when no request runs any more.

    is_allowed: says of an address whether it may be connected to.
    """

    def __init__(
        self, is_on: bool, timeout_s: float = 10.0, is_allowed: Callable[[str], bool] = is_public
    ) -> None:
        self._is_on = is_on
        self._timeout_s = timeout_s
        self._is_allowed = is_allowed
        self._session: aiohttp.ClientSession | None = None

    async def fetched(self, task: ChatTask) -> ChatTask:
        """The task with every image's bytes. Raises ImageUrlRefused naming the message."""
        count = sum(bool(image.url) for message in task.messages for image in message.images)
        if not count:
            return task
        params = (f"messages[{index}].content" for index in range(len(task.messages)))
        first = next(p for p, m in zip(params, task.messages, strict=False) if _has_url(m))
        if not self._is_on:
            raise ImageUrlRefused(first, "is not fetched here: send the image as a data: URL")
        if count > URL_COUNT_MAX:
            raise ImageUrlRefused(first, f"is one of {count}; the limit is {URL_COUNT_MAX}")
        room = _Room(TOTAL_SIZE_BYTES_MAX)
        messages = []
        try:
            async with asyncio.timeout(self._timeout_s):
                for index, message in enumerate(task.messages):
                    messages.append(
                        await self._message(message, f"messages[{index}].content", room)
                    )
        except TimeoutError as err:
            raise ImageUrlRefused(first, f"gave nothing within {self._timeout_s:g} s") from err
        return replace(task, messages=tuple(messages))

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    async def _message(self, message: Message, param: str, room: _Room) -> Message:
        if not _has_url(message):
            return message
        images = [
            await self._image(image, param, room) if image.url else image
            for image in message.images
        ]
        return replace(message, images=tuple(images))

    async def _image(self, image: Image, param: str, room: _Room) -> Image:
        url = _checked_url(image.url, param)
        # The connector asks no resolver for a host that is an address already.
        if _is_address(url) and not self._is_allowed(url.host or ""):
            raise ImageUrlRefused(param, "names no public address")
        try:
            data = await self._read(url, param, room)
        except (aiohttp.ClientError, OSError, ValueError) as err:
            log.info("image not fetched", extra={"problem": type(err).__name__})
            raise ImageUrlRefused(param, "cannot be fetched from a public address") from err
        media_type = media_type_of(data)
        if media_type is None:
            raise ImageUrlRefused(param, "gave no PNG, JPEG, GIF or WebP image")
        return Image(media_type, data, image.offset)

    async def _read(self, url: URL, param: str, room: _Room) -> bytes:
        async with self._opened().get(url, allow_redirects=False) as response:
            if 300 <= response.status < 400:
                raise ImageUrlRefused(param, "leads elsewhere; redirects are not followed")
            if response.status != 200:
                raise ImageUrlRefused(param, f"was answered with status {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_SIZE_BYTES):
                data += chunk
                room.size_bytes -= len(chunk)
                if len(data) > limits.IMAGE_SIZE_BYTES_MAX or room.size_bytes < 0:
                    raise ImageUrlRefused(
                        param,
                        f"gives too much: the limit is {limits.IMAGE_SIZE_BYTES_MAX} bytes an "
                        f"image, {TOTAL_SIZE_BYTES_MAX} bytes a request",
                    )
            return bytes(data)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(self._is_allowed), use_dns_cache=False, limit=32
            )
            # Compressed bodies stay as they are: they are no images, and they unfold.
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": "image/*", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


@dataclass
class _Room:
    """Bytes that the images of one request may still have."""

    size_bytes: int


class CheckedResolver(AbstractResolver):
    """The system's resolver; a name with one address that is not allowed has none.

    The connector connects to what this returns, so that nothing is resolved twice.
    """

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM
        )
        addresses = [(str(sockaddr[0]), kind) for kind, _, _, _, sockaddr in found]
        if not addresses or not all(self._is_allowed(address) for address, _ in addresses):
            raise OSError("the host has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address, kind in addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


def _has_url(message: Message) -> bool:
    return any(image.url for image in message.images)


def _checked_url(text: str, param: str) -> URL:
    try:
        url = URL(text)
    except ValueError as err:
        raise ImageUrlRefused(param, "cannot be read") from err
    if url.scheme not in ("http", "https") or not url.host:
        raise ImageUrlRefused(param, "must be https: or http: with a host")
    if url.user is not None or url.password is not None:
        raise ImageUrlRefused(param, "must not carry a user name or password")
    return url


def _is_address(url: URL) -> bool:
    try:
        ipaddress.ip_address((url.host or "").partition("%")[0])
    except ValueError:
        return False
    return True
