"""The fleet's own embeddings over HTTP, as the official client and plain bodies see them."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from shoal_common.errors import Overloaded
from shoal_gateway.drafter_testing import DIMENSIONS, RunningDrafter, fake_drafter, vector_of
from shoal_gateway.embedder import TEXTS_PER_CALL
from shoal_gateway.providers.testing import FakeProvider, fake_provider, whole

KEY = "k" * 64
MODEL = "all-MiniLM-L6-v2"


@dataclass
class House:
    """A gateway, the drafter it asks and the one provider it knows."""

    url: str
    http: aiohttp.ClientSession
    openai: AsyncOpenAI
    drafter: RunningDrafter
    provider: FakeProvider

    async def embed(self, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, Any]:
        async with self.http.post("/v1/embeddings", json=body, headers=headers) as response:
            return response.status, await response.json()


@pytest.fixture
def start_house(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    @asynccontextmanager
    async def start(openai_key: str = "", **settings: Any) -> AsyncIterator[House]:
        monkeypatch.setenv("OPENAI_API_KEY", openai_key)
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(fake_provider())
            drafter = await stack.enter_async_context(fake_drafter())
            fleet = await stack.enter_async_context(
                start_fleet(
                    drafter_address=drafter.address,
                    cascade_model="",
                    provider_base_urls={"openai": provider.url},
                    **settings,
                )
            )
            http = await stack.enter_async_context(
                aiohttp.ClientSession(fleet.url, headers={"Authorization": f"Bearer {KEY}"})
            )
            client = await stack.enter_async_context(
                AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0)
            )
            yield House(fleet.url, http, client, drafter, provider)

    return start


@pytest.fixture
async def house(start_house: Any) -> AsyncIterator[House]:
    async with start_house() as house:
        yield house


async def test_the_official_client_reads_base64_without_being_told(house: House) -> None:
    answer = await house.openai.embeddings.create(model=MODEL, input=["hi", "there"])
    assert [entry.embedding for entry in answer.data] == [vector_of("hi"), vector_of("there")]
    assert [entry.index for entry in answer.data] == [0, 1]
    assert answer.model == MODEL
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
    assert list(house.drafter.service.embed_requests[0].texts) == ["hi", "there"]


async def test_spellings_and_names_nobody_serves_mean_the_own_model(house: House) -> None:
    names = [MODEL.lower(), f"sentence-transformers/{MODEL}", "text-embedding-3-small"]
    for name in names:
        answer = await house.openai.embeddings.create(
            model=name, input="hi", encoding_format="float", user="ada", dimensions=DIMENSIONS
        )
        assert answer.data[0].embedding == vector_of("hi"), name
        assert answer.model == MODEL, name


async def test_base64_is_float32_least_byte_first(house: House) -> None:
    status, answer = await house.embed(model=MODEL, input="hi", encoding_format="base64")
    assert status == 200
    data = base64.b64decode(answer["data"][0]["embedding"])
    assert list(struct.unpack(f"<{DIMENSIONS}f", data)) == vector_of("hi")
    assert answer["object"] == "list"
    assert answer["data"][0]["object"] == "embedding"


async def test_many_texts_go_in_several_calls_and_come_back_in_order(house: House) -> None:
    texts = [chr(97 + index % 26) * (index % 50 + 1) for index in range(TEXTS_PER_CALL + 3)]
    answer = await house.openai.embeddings.create(model=MODEL, input=texts)
    assert [entry.embedding for entry in answer.data] == [vector_of(text) for text in texts]
    assert [entry.index for entry in answer.data] == list(range(len(texts)))
    calls = house.drafter.service.embed_requests
    assert [len(call.texts) for call in calls] == [TEXTS_PER_CALL, 3]
    assert len({call.request_id for call in calls}) == 2
    assert answer.usage.prompt_tokens == sum(map(len, texts))


async def test_what_cannot_be_embedded_is_refused_by_name(house: House) -> None:
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"input": "hi"}, "model", "required"),
        ({"model": MODEL}, "input", "not empty"),
        ({"model": MODEL, "input": ""}, "input", "not empty"),
        ({"model": MODEL, "input": ["a", ""]}, "input[1]", "0 characters"),
        ({"model": MODEL, "input": ["a", 1]}, "input[1]", "a string"),
        ({"model": MODEL, "input": [1, 2]}, "input", "send the texts"),
        ({"model": MODEL, "input": [[1, 2], [3]]}, "input", "send the texts"),
        ({"model": MODEL, "input": ["a"] * 2049}, "input", "2049 entries"),
        ({"model": MODEL, "input": "a" * 32769}, "input[0]", "32769 characters"),
        ({"model": MODEL, "input": "a", "dimensions": 2}, "dimensions", "must be 4"),
        ({"model": MODEL, "input": "a", "encoding_format": "hex"}, "encoding_format", "base64"),
    ]
    for body, param, words in wrong:
        status, answer = await house.embed(**body)
        assert (status, answer["error"]["param"]) == (400, param)
        assert words in answer["error"]["message"]
    assert not house.drafter.service.embed_requests


async def test_unknown_fields_are_refused_where_that_is_wanted(start_house: Any) -> None:
    async with start_house(strict_compat=True) as house:
        status, answer = await house.embed(model=MODEL, input="hi", colour="red")
        assert (status, answer["error"]["param"]) == (400, "colour")


async def test_a_providers_model_goes_to_its_provider(start_house: Any) -> None:
    async with start_house(openai_key="secret") as house:
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        house.provider.says(whole({"object": "list", "data": data, "model": "m", "usage": usage}))
        status, answer = await house.embed(model="text-embedding-3-small", input=[[1, 2]])
        assert (status, answer["data"][0]["embedding"]) == (200, [0.5])
        status, answer = await house.embed(model=MODEL, input="hi")
        assert answer["data"][0]["embedding"] == vector_of("hi")
        assert len(house.provider.seen) == 1


async def test_a_bound_keeps_texts_from_a_provider(start_house: Any) -> None:
    bound = {"x-shoal-privacy": "lan"}
    async with start_house(openai_key="secret") as house:
        status, answer = await house.embed(bound, model="text-embedding-3-small", input="hi")
        assert (status, answer["error"]["param"]) == (400, "x-shoal-privacy")
        assert not house.provider.seen
        for label in ("local", "pool", "lan"):
            bound = {"x-shoal-privacy": label}
            assert (await house.embed(bound, model=MODEL, input="hi"))[0] == 200


async def test_a_bound_refuses_a_drafter_that_asks_somebody_else(house: House) -> None:
    house.drafter.service.described.embeds_itself = False
    bound = {"x-shoal-privacy": "pool"}
    status, answer = await house.embed(bound, model=MODEL, input="hi")
    assert (status, answer["error"]["param"]) == (400, "x-shoal-privacy")
    assert (await house.embed(model=MODEL, input="hi"))[0] == 200
    assert len(house.drafter.service.embed_requests) == 1


async def test_a_drafter_that_is_down_is_unavailable(house: House) -> None:
    await house.drafter.server.stop()
    with pytest.raises(openai.InternalServerError, match="cannot be reached") as caught:
        await house.openai.embeddings.create(model=MODEL, input="hi")
    assert caught.value.status_code == 503
    async with house.http.get("/v1/models") as response:
        assert MODEL not in [entry["id"] for entry in (await response.json())["data"]]


async def test_a_drafter_goes_down_after_it_was_known(house: House) -> None:
    assert (await house.embed(model=MODEL, input="hi"))[0] == 200
    await house.drafter.server.stop()
    status, answer = await house.embed(model=MODEL, input="hi")
    assert (status, answer["error"]["code"]) == (503, "peer_unreachable")


async def test_the_drafters_own_refusal_keeps_its_status(house: House) -> None:
    assert (await house.embed(model=MODEL, input="hi"))[0] == 200
    house.drafter.service.error = Overloaded("70 texts wait to be embedded already: try again")
    status, answer = await house.embed(model=MODEL, input="hi")
    assert status == 429
    assert "70 texts wait" in answer["error"]["message"]


async def test_embeddings_count_for_the_keys_budget(house: House) -> None:
    made = {"name": "small", "scopes": ["embeddings"], "monthly_token_budget": 3}
    async with house.http.post("/api/admin/keys", json=made) as response:
        key = {"Authorization": f"Bearer {(await response.json())['key']}"}
    assert (await house.embed(key, model=MODEL, input="hello"))[0] == 200
    status, answer = await house.embed(key, model=MODEL, input="hello")
    assert (status, answer["error"]["code"]) == (429, "budget_exceeded")


async def test_the_model_list_ends_with_the_embedding_model(house: House) -> None:
    listed = [model.id async for model in house.openai.models.list()]
    assert listed == ["heavyweight", MODEL]
    assert (await house.openai.models.retrieve(MODEL)).owned_by == "shoal"


async def test_the_drafter_is_asked_who_it_is_once_in_a_while(house: House) -> None:
    for _ in range(3):
        await house.embed(model=MODEL, input="hi")
    assert house.drafter.service.describe_count == 1
