"""Images by URL: what is fetched, and everything that is not."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shoal_gateway import images, limits
from shoal_gateway.images import ImageUrlRefused, ImageUrls, is_public, media_type_of
from shoal_gateway.task import ChatTask, Image, Message

KEY = "k" * 64
PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def task(*urls: str) -> ChatTask:
    given = tuple(Image("", b"", offset=index, url=url) for index, url in enumerate(urls))
    return ChatTask("", (Message("system", "be brief"), Message("user", "what?", images=given)))


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[str]:
    """A web server on this machine, which tests may call public."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fetcher(timeout_s: float = 5.0, **options: Any) -> AsyncIterator[ImageUrls]:
    urls = ImageUrls(True, timeout_s, **options)
    try:
        yield urls
    finally:
        await urls.close()


async def refusal(urls: ImageUrls, *addresses: str) -> str:
    with pytest.raises(ImageUrlRefused) as caught:
        await urls.fetched(task(*addresses))
    assert caught.value.param == "messages[1].content"
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "2001:db8::1", "", "localhost", "0x7f.1", "127.1",
    ],
)  # fmt: skip
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", None),
        (b"<svg onload='x'>", None),
        (b"", None),
    ],
)
def test_an_image_is_known_by_its_first_bytes(data: bytes, media_type: str | None) -> None:
    assert media_type_of(data) == media_type


async def test_a_url_becomes_bytes_whatever_type_the_server_claims() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert "Cookie" not in request.headers
        return web.Response(body=PNG, content_type="text/html", headers={"Set-Cookie": "a=b"})

    async with site(handler) as url, fetcher(is_allowed=lambda address: True) as urls:
        filled = await urls.fetched(task(f"{url}/a", f"{url}/b"))
    assert [image.data for image in filled.messages[1].images] == [PNG, PNG]
    assert [image.media_type for image in filled.messages[1].images] == ["image/png"] * 2
    assert [image.offset for image in filled.messages[1].images] == [0, 1]
    assert all(not image.url for image in filled.messages[1].images)


async def test_nothing_is_fetched_unless_allowed() -> None:
    urls = ImageUrls(is_on=False)
    assert "data: URL" in await refusal(urls, "https://example.org/a.png")
    plain = ChatTask("", (Message("user", "hi", images=(Image("image/png", PNG),)),))
    assert await urls.fetched(plain) is plain


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"]
)
async def test_inner_hosts_are_never_connected_to(host: str) -> None:
    calls = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response(body=PNG)

    async with site(handler) as url, fetcher() as urls:
        port = url.rpartition(":")[2]
        assert "public address" in await refusal(urls, f"http://{host}:{port}/a.png")
    assert calls == []


async def test_a_name_with_one_inner_address_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*arguments: Any, **options: Any) -> list[Any]:
        return [
            (2, 1, 6, "", ("8.8.8.8", 80)),
            (2, 1, 6, "", ("127.0.0.1", 80)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    with pytest.raises(OSError, match="no public address"):
        await images.CheckedResolver(is_public).resolve("two-faced.example", 80)


async def test_a_redirect_is_not_followed() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/inner":
            return web.Response(body=PNG)
        raise web.HTTPFound("/inner")

    async with site(handler) as url, fetcher(is_allowed=lambda address: True) as urls:
        assert "redirects" in await refusal(urls, f"{url}/a.png")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (web.Response(status=404), "status 404"),
        (web.Response(text="<html>"), "no PNG"),
        (web.Response(body=gzip.compress(PNG), headers={"Content-Encoding": "gzip"}), "no PNG"),
    ],
)
async def test_what_is_no_image_is_refused(answer: web.Response, problem: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer

    async with site(handler) as url, fetcher(is_allowed=lambda address: True) as urls:
        assert problem in await refusal(urls, f"{url}/a.png")


async def test_an_endless_body_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_SIZE_BYTES_MAX", 100_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        while True:
            await response.write(b"x" * 65536)

    async with site(handler) as url, fetcher(is_allowed=lambda address: True) as urls:
        assert "too much" in await refusal(urls, f"{url}/a.png")


async def test_all_images_of_a_request_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "TOTAL_SIZE_BYTES_MAX", 2 * len(PNG))

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=PNG)

    async with site(handler) as url, fetcher(is_allowed=lambda address: True) as urls:
        await urls.fetched(task(*[f"{url}/a.png"] * 2))
        assert "too much" in await refusal(urls, *[f"{url}/a.png"] * 3)
        assert "limit is 16" in await refusal(urls, *[f"{url}/a.png"] * 17)


async def test_a_silent_server_is_given_up() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with site(handler) as url, fetcher(0.2, is_allowed=lambda address: True) as urls:
        assert "0.2 s" in await refusal(urls, f"{url}/a.png")


@pytest.mark.parametrize(
    "url",
    ["https://", "http://user:secret@example.org/", "http://[::1", "https://exa mple:99999999/"],
)
async def test_odd_urls_are_refused(url: str) -> None:
    async with fetcher() as urls:
        await refusal(urls, url)


async def test_a_model_that_reads_text_only_is_sent_no_url(fleet: Any) -> None:
    url = "https://example.org/a.png"
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": parts}], "n": 2}
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 400
        error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "messages[0].content")
