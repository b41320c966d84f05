"""The cascade as real processes: who answers, what is given again, and life without the drafter."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr

from shoal_common.clock import SystemClock
from shoal_common.settings import FleetSettings
from shoal_gateway.app import running
from shoal_gateway.settings import Settings
from tests.e2e.fleet import Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

EASY = "What is the capital of France?"
EASY_ANSWER = "The capital of France is Paris."
# The drafter begins well and then loses its way, with more than 2 bits of doubt.
HARD = "Reverse: n v k s b c"
HARD_ANSWER = "Reversed: c b s k v n"
HARD_ANSWERS = {
    HARD: HARD_ANSWER,
    "Reverse: r t y w": "Reversed: w y t r",
    "Reverse: v e h w s": "Reversed: s w h e v",
    "Write backwards: k n s i n": "Reversed: n i s n k",
}
EMBEDDER = "all-MiniLM-L6-v2"
BACK_TIMEOUT_S = 60.0
POLL_S = 0.1


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(folder, models=["heavyweight", "drafter"], drafter="drafter") as fleet:
        yield fleet


@dataclass(frozen=True)
class Answer:
    """What came, and what the headers or a stream's comments said of it."""

    text: str
    model: str
    told: Mapping[str, str]

    @property
    def by(self) -> str:
        return self.told["x-shoal-answered-by"]


@dataclass(frozen=True)
class House:
    """One gateway in front of the fleet."""

    http: aiohttp.ClientSession

    async def ask(self, text: str, *, is_fresh: bool = False, **more: Any) -> Answer:
        """is_fresh: no kept answer is wanted."""
        async with self._post(text, more, is_fresh) as response:
            body = await response.json()
            assert response.status == 200, body
            told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(body["choices"][0]["message"]["content"], body["model"], told)

    async def stream(self, text: str, *, is_fresh: bool = False) -> Answer:
        pieces: list[str] = []
        told: dict[str, str] = {}
        async with self._post(text, {"stream": True}, is_fresh) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                word, _, rest = line.decode().strip().partition(": ")
                if not word and rest:
                    name, _, value = rest.partition(": ")
                    told[name] = value
                elif word == "data" and rest != "[DONE]":
                    [choice] = json.loads(rest)["choices"]
                    pieces.append(choice["delta"].get("content") or "")
        return Answer("".join(pieces), "", told)

    def _post(self, text: str, more: Mapping[str, Any], is_fresh: bool) -> Any:
        messages = [{"role": "user", "content": text}]
        body = {"model": "cascade", "messages": messages, "temperature": 0, **more}
        headers = {"Cache-Control": "no-store"} if is_fresh else {}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def house_at(url: str, key: str) -> AsyncIterator[House]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, headers=headers) as http:
        yield House(http)


@pytest.fixture
async def house(fleet: Fleet) -> AsyncIterator[House]:
    async with house_at(fleet.url, fleet.key) as house:
        yield house


@asynccontextmanager
async def gateway_beside(fleet: Fleet, folder: Path, **settings: Any) -> AsyncIterator[House]:
    """Another gateway of the same fleet, set up differently."""
    configured = Settings(
        listen_port=0,
        api_key=SecretStr(fleet.key),
        router_address=fleet.address("router"),
        shard_store_address=fleet.address("shard-store"),
        drafter_address=fleet.address("entropy-drafter"),
        template_workers=1,
        fleet=FleetSettings(data_dir=folder, token=SecretStr(fleet.token)),
        **settings,
    )
    async with running(configured) as (address, _), house_at(f"http://{address}", fleet.key) as it:
        yield it


async def test_the_drafter_answers_what_is_easy_and_the_answer_is_given_again(
    house: House,
) -> None:
    first = await house.ask(EASY)
    assert (first.text, first.by) == (EASY_ANSWER, "drafter")
    assert float(first.told["x-shoal-entropy"]) < 0.5
    again, streamed = await until_by(house, "cache"), await house.stream(EASY)
    assert again.text == streamed.text == EASY_ANSWER
    assert again.told["x-shoal-cache"].startswith("exact; similarity=1.00")
    assert streamed.by == "cache"
    fresh = await house.ask(EASY, is_fresh=True)
    assert (fresh.text, fresh.by) == (EASY_ANSWER, "drafter")


async def test_the_heavyweight_answers_what_is_hard(house: House) -> None:
    answer = await house.ask(HARD)
    assert (answer.text, answer.by) == (HARD_ANSWER, "heavyweight")
    assert answer.told["x-shoal-escalation"] in ("window", "early_exit")


async def test_who_names_no_model_asks_the_heavyweight(house: House) -> None:
    answer = await house.ask(EASY, model="auto")
    assert answer.model == "heavyweight"
    async with house.http.get("/v1/models") as response:
        listed = [entry["id"] for entry in (await response.json())["data"]]
    assert listed[0] == "heavyweight"
    assert {"drafter", "cascade", EMBEDDER} < set(listed)


async def test_a_stream_goes_on_behind_what_is_settled(house: House) -> None:
    answer = await house.stream(HARD, is_fresh=True)
    assert (answer.text, answer.by) == (HARD_ANSWER, "drafter+heavyweight")
    answer = await house.stream(EASY, is_fresh=True)
    assert (answer.text, answer.by) == (EASY_ANSWER, "drafter")


async def test_a_stream_that_is_held_stands_once_it_begins(fleet: Fleet, tmp_path: Path) -> None:
    async with gateway_beside(fleet, tmp_path, stream_mode="hold") as house:
        answer = await house.stream(EASY, is_fresh=True)
        assert (answer.text, answer.by) == (EASY_ANSWER, "drafter")
        # The doubt comes when the first letters have left.
        assert (await house.stream(HARD, is_fresh=True)).by == "drafter"
        assert (await house.ask(HARD, is_fresh=True)).text == HARD_ANSWER


async def test_the_official_client_has_texts_embedded(client: AsyncOpenAI) -> None:
    texts = ["How do I reset my password?", "I forgot my password", "Bananas are yellow"]
    answer = await client.embeddings.create(model=EMBEDDER, input=texts)
    reset, forgot, bananas = (entry.embedding for entry in answer.data)
    assert len(reset) == 384
    assert math.isclose(math.hypot(*reset), 1.0, rel_tol=1e-3)
    assert cosine(reset, forgot) > 0.5 > cosine(reset, bananas)
    assert answer.usage.prompt_tokens > 10


async def test_admins_see_the_cascade_and_its_drafts(house: House) -> None:
    async with house.http.get("/api/admin/cascade") as response:
        shown = await response.json()
    assert (shown["drafter"]["kind"], shown["drafter"]["model"]) == ("fleet", "drafter")
    assert shown["cache"]["is_ready"]
    body = {"messages": [{"role": "user", "content": EASY}], "temperature": 0}
    async with house.http.post("/api/admin/cascade/draft", json=body) as response:
        drafted = await response.json()
    assert drafted["text"] == EASY_ANSWER
    assert len(drafted["tokens"]) == drafted["usage"]["completion_tokens"]
    assert all(token["is_known"] for token in drafted["tokens"])


async def test_a_drafter_that_is_killed_costs_no_answer_and_comes_back(
    fleet: Fleet, house: House
) -> None:
    asked = [asyncio.create_task(house.stream(text)) for text in HARD_ANSWERS]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    fleet.service("entropy-drafter").kill()
    answers = await asyncio.gather(*asked)
    assert [answer.text for answer in answers] == list(HARD_ANSWERS.values())
    # It starts again after half a second at the earliest.
    alone = await house.ask(EASY)
    assert (alone.text, alone.by) == (EASY_ANSWER, "heavyweight")
    await until_by(house, "drafter", is_fresh=True)
    assert (await until_by(house, "cache")).text == EASY_ANSWER


def cosine(one: list[float], other: list[float]) -> float:
    """Of vectors of length 1."""
    return math.fsum(map(mul, one, other))


async def until_by(house: House, by: str, *, is_fresh: bool = False) -> Answer:
    """The first answer to the easy question that is given so.

    Kept answers are put away behind the answer that made them, and a drafter takes its time to
    start.
    """
    async with asyncio.timeout(BACK_TIMEOUT_S):
        while True:
            answer = await house.ask(EASY, is_fresh=is_fresh)
            if answer.by == by:
                return answer
            await SystemClock().sleep(POLL_S)
