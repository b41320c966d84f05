"""Who answers is asked in this order: the model, then its images, then the prompt, once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway.answers import Answers
from shoal_gateway.choices import open_choices
from shoal_gateway.images import ImageUrlRefused, ImageUrls
from shoal_gateway.task import ChatTask, Event, Finished, Image, Message, Sampling, Usage

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Drawn:
    """An answer that remembers what it was drawn from."""

    request_id: str
    seed: int | None
    model: str = "m"
    fingerprint: str = ""

    def again(self, request_id: str, seed: int | None) -> Drawn:
        return Drawn(request_id, seed)

    async def events(self) -> AsyncGenerator[Event, None]:
        yield Finished("stop", Usage(1, 1))


@dataclass
class CountingBackend:
    """Answers everything. `sees`: whether its model reads images."""

    sees: bool = True
    opened: list[ChatTask] = field(default_factory=list)

    async def serves(self, model: str) -> bool:
        return True

    async def open(self, request_id: str, task: ChatTask) -> Drawn:
        self.opened.append(task)
        return Drawn(request_id, task.sampling.seed)

    async def count_tokens(self, task: ChatTask) -> int:
        self.opened.append(task)
        return 1

    async def require_images(self, task: ChatTask) -> None:
        if not self.sees:
            raise InvalidRequest("takes text only", param="messages[0].content")


def asking(url: str) -> ChatTask:
    return ChatTask("m", (Message("user", "look", images=(Image("", b"", url=url),)),))


async def test_images_are_fetched_only_for_a_model_that_reads_them() -> None:
    fetched: list[str] = []

    async def image(request: web.Request) -> web.Response:
        fetched.append(request.path)
        return web.Response(body=PNG)

    app = web.Application()
    app.router.add_get("/a.png", image)
    runner = web.AppRunner(app)
    await runner.setup()
    urls = ImageUrls(True, is_allowed=lambda address: True)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        task = asking(f"http://127.0.0.1:{runner.addresses[0][1]}/a.png")
        blind = Answers([CountingBackend(sees=False)], urls)
        for ask in (blind.open("req-1", task), blind.count_tokens(task)):
            with pytest.raises(InvalidRequest, match="text only"):
                await ask
        assert fetched == []
        backend = CountingBackend()
        await Answers([backend], urls).open("req-1", task)
        assert backend.opened[0].messages[0].images[0].data == PNG
        assert fetched == ["/a.png"]
    finally:
        await urls.close()
        await runner.cleanup()


async def test_urls_are_refused_by_default() -> None:
    backend = CountingBackend()
    with pytest.raises(ImageUrlRefused, match="data: URL"):
        await Answers([backend]).open("req-1", asking("https://example.org/a.png"))
    assert not backend.opened


@pytest.mark.parametrize(
    ("seed", "seeds"), [(None, [None] * 3), (2**64 - 2, [2**64 - 2, 2**64 - 1, 0])]
)
async def test_choices_share_one_prompt(seed: int | None, seeds: list[int | None]) -> None:
    backend = CountingBackend()
    task = ChatTask("m", (Message("user", "hi"),), Sampling(seed=seed), choice_count=3)
    opened = await open_choices(Answers([backend]), "req-1", task)
    drawn = [answer for answer in opened if isinstance(answer, Drawn)]
    assert [answer.request_id for answer in drawn] == ["req-1-0", "req-1-1", "req-1-2"]
    assert [answer.seed for answer in drawn] == seeds
    (prepared,) = backend.opened
    assert prepared.choice_count == 1
