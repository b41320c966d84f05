"""A hub in this process, honest or not, for tests.

It has the shape of the real one: a listing by API, files by `resolve`, large ones behind a redirect
to another host and port. Every way to misbehave is a field.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_WEIGHTS_SIZE_BYTES = 4096
LARGE_SUFFIXES = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Seen:
    """A request for bytes that was answered, or refused on purpose."""

    host: str
    path: str
    token: str
    start: int
    stop: int
    status: int


@dataclass
class FakeHub:
    """One repository, `acme/tiny`. Change its fields while it serves.

    refuse_count: so many requests for bytes are answered 429 first. reset_after: bytes of a large
    body after which the connection breaks, for the next `reset_count` bodies. hold_after: bytes
    after which a body waits for `go_on`. lying_sizes: what the listing says instead. redirect_to:
    where large files are said to be, instead of the CDN. damaged: ranges of 4 KiB and more, which
    no header has here, arrive with other bytes.
    """

    files: dict[str, bytes]
    token: str = ""
    refuse_count: int = 0
    refuse_status: int = 429
    retry_after: str = "7"
    reset_after: int = 0
    reset_count: int = 0
    hold_after: int = 0
    lying_sizes: dict[str, int] = field(default_factory=dict)
    redirect_to: str = ""
    ignores_ranges: bool = False
    damaged: bool = False
    seen: list[Seen] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    is_held: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    cdn_url: str = ""

    def etag(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def bytes_sent(self, name: str) -> int:
        """Of one file, over all answers."""
        return sum(each.stop - each.start for each in self.seen if each.path.endswith(name))

    async def listing(self, request: web.Request) -> web.Response:
        """The API's answer."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        siblings = []
        for name, data in self.files.items():
            size = self.lying_sizes.get(name, len(data))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": self.etag(name)}
            if name.endswith(LARGE_SUFFIXES):
                entry["lfs"] = {"sha256": self.etag(name), "size": size}
            siblings.append(entry)
        return web.json_response({"id": "acme/tiny", "sha": "c" * 40, "siblings": siblings})

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """A file, or where it is."""
        name = request.match_info["name"]
        if name not in self.files:
            return web.Response(status=404)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if not name.endswith(LARGE_SUFFIXES):
            return await self._body(request, name)
        target = self.redirect_to or f"{self.cdn_url}/blob/{name}?signature=secret"
        headers = {"Location": target, "X-Linked-Etag": f'"{self.etag(name)}"'}
        return web.Response(status=302, headers=headers)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """A large file on the CDN, which has ETags of its own."""
        name = request.match_info["name"]
        return await self._body(request, name) if name in self.files else web.Response(status=404)

    async def plain(self, request: web.Request) -> web.StreamResponse:
        """A file of a plain web server, with its ETag."""
        name = request.match_info["name"]
        if name not in self.files:
            return web.Response(status=404)
        return await self._body(request, name, f'"{self.etag(name)}"')

    async def _body(self, request: web.Request, name: str, etag: str = "") -> web.StreamResponse:
        data = self.files[name]
        match = _RANGE.fullmatch(request.headers.get("Range", ""))
        start, stop = (int(match[1]), int(match[2]) + 1) if match else (0, len(data))
        stop = min(stop, len(data))
        if self.refuse_count:
            self.refuse_count -= 1
            self._note(request, name, 0, 0, self.refuse_status)
            return web.Response(
                status=self.refuse_status, headers={"Retry-After": self.retry_after}
            )
        if self.ignores_ranges:
            start, stop = 0, len(data)
        status = 206 if match and not self.ignores_ranges else 200
        self._note(request, name, start, stop, status)
        response = web.StreamResponse(status=status)
        response.content_length = stop - start
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        if etag:
            response.headers["Etag"] = etag
        await response.prepare(request)
        body = data[start:stop]
        if self.damaged and name.endswith(LARGE_SUFFIXES) and len(body) >= _WEIGHTS_SIZE_BYTES:
            body = bytes(byte ^ 255 for byte in body)
        await self._send(request, response, body, name)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, body: bytes, name: str
    ) -> None:
        is_large = name.endswith(LARGE_SUFFIXES)
        if is_large and self.reset_count and len(body) > self.reset_after > 0:
            self.reset_count -= 1
            await response.write(body[: self.reset_after])
            assert request.transport is not None
            request.transport.close()
            return
        if is_large and 0 < self.hold_after < len(body) and not self.go_on.is_set():
            await response.write(body[: self.hold_after])
            self.is_held.set()
            await self.go_on.wait()
            body = body[self.hold_after :]
        await response.write(body)

    def _note(self, request: web.Request, name: str, start: int, stop: int, status: int) -> None:
        token = request.headers.get("Authorization", "")
        self.seen.append(Seen(request.host, request.path, token, start, stop, status))


@asynccontextmanager
async def serving_hub(hub: FakeHub) -> AsyncIterator[FakeHub]:
    """The hub on one free port and its CDN, under another name, on another."""
    front, cdn = web.Application(), web.Application()
    front.router.add_get("/api/models/acme/tiny/revision/{revision}", hub.listing)
    front.router.add_get("/acme/tiny/resolve/{revision}/{name:.+}", hub.resolve)
    front.router.add_get("/plain/{name:.+}", hub.plain)
    cdn.router.add_get("/blob/{name:.+}", hub.blob)
    runners = [web.AppRunner(front, shutdown_timeout=0), web.AppRunner(cdn, shutdown_timeout=0)]
    ports = []
    try:
        for runner in runners:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            ports.append(runner.addresses[0][1])
        hub.url = f"http://127.0.0.1:{ports[0]}"
        hub.cdn_url = f"http://localhost:{ports[1]}"
        yield hub
    finally:
        hub.go_on.set()
        for runner in runners:
            await runner.cleanup()
