"""What admins see of the cascade, and drafts that no gate has judged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import Unavailable
from shoal_gateway.drafter_testing import FakeDrafterService, fake_drafter

KEY = "k" * 64
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@dataclass
class House:
    """A gateway whose drafter is a fake."""

    http: aiohttp.ClientSession
    drafter: FakeDrafterService
    fleet: Any

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.request(method, path, **options) as response:
            return response.status, await response.json()

    async def draft(self, **more: Any) -> tuple[int, Any]:
        return await self.call("POST", "/api/admin/cascade/draft", json=CHAT | more)

    def drafts(
        self, text: str, reason: stage_pb2.FinishReason = stage_pb2.FINISH_REASON_STOP
    ) -> list[int]:
        """The fleet's drafter says `text`, a token in each event; returns the ids."""
        self.drafter.described.kind = drafter_pb2.DRAFTER_KIND_FLEET
        self.drafter.described.model = "heavyweight"
        ids: list[int] = self.fleet.tokens.encode(text)
        deltas = [
            drafter_pb2.DraftDelta(
                first_position=index,
                tokens=[stage_pb2.GeneratedToken(token_id=token_id)],
                doubts=[doubt(index)],
            )
            for index, token_id in enumerate(ids)
        ]
        self.drafter.events = answers(deltas, reason)
        return ids


def doubt(index: int) -> drafter_pb2.TokenDoubt:
    return drafter_pb2.TokenDoubt(
        renormalised_bits=index / 4,
        lower_bits=index / 8,
        upper_bits=index / 2,
        margin=0.5,
        is_known=True,
    )


def answers(
    deltas: Sequence[drafter_pb2.DraftDelta], reason: stage_pb2.FinishReason
) -> list[drafter_pb2.AnswerResponse]:
    """From the beginning of a draft to its end."""
    end = drafter_pb2.DraftEnd(
        reason=reason,
        prompt_token_count=7,
        completion_token_count=len(deltas),
    )
    return [
        drafter_pb2.AnswerResponse(begun=drafter_pb2.DraftBegun()),
        *(drafter_pb2.AnswerResponse(draft=delta) for delta in deltas),
        drafter_pb2.AnswerResponse(end=end),
    ]


@pytest.fixture
def start_house(start_fleet: Any) -> Any:
    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[House]:
        async with AsyncExitStack() as stack:
            drafter = await stack.enter_async_context(fake_drafter())
            fleet = await stack.enter_async_context(
                start_fleet(drafter_address=drafter.address, **settings)
            )
            http = await stack.enter_async_context(
                aiohttp.ClientSession(fleet.url, headers={"Authorization": f"Bearer {KEY}"})
            )
            yield House(http, drafter.service, fleet)

    return start


@pytest.fixture
async def house(start_house: Any) -> AsyncIterator[House]:
    async with start_house() as house:
        yield house


async def test_the_cascade_is_shown_with_its_drafter_and_cache(start_house: Any) -> None:
    async with start_house(heavyweight_model="gpt-4.1", stream_mode="hold") as house:
        house.drafter.described.kind = drafter_pb2.DRAFTER_KIND_UPSTREAM
        house.drafter.described.threshold = 0.8
        house.drafter.described.timeout_ms = 30_000
        house.drafter.cache = drafter_pb2.GetCacheResponse(
            is_enabled=True, entry_count=3, similarity_threshold=0.95, vector_store="edge"
        )
        status, shown = await house.call("GET", "/api/admin/cascade")
    assert status == 200
    assert (shown["cascade_model"], shown["heavyweight_model"]) == ("cascade", "gpt-4.1")
    assert (shown["stream_mode"], shown["problem"]) == ("hold", None)
    assert (shown["drafter"]["kind"], shown["drafter"]["threshold"]) == ("upstream", 0.8)
    assert shown["drafter"]["timeout_s"] == 30
    assert (shown["cache"]["entry_count"], shown["cache"]["similarity_threshold"]) == (3, 0.95)
    assert shown["cache"]["vector_store"] == "edge"


async def test_a_drafter_that_is_away_is_a_problem_and_no_error(house: House) -> None:
    house.drafter.error = Unavailable("the drafter rests")
    status, shown = await house.call("GET", "/api/admin/cascade")
    assert (status, shown["drafter"], shown["cache"]) == (200, None, None)
    assert "the drafter rests" in shown["problem"]


async def test_without_a_drafter_there_is_nothing_to_forget_or_draft(fleet: Any) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(fleet.url, headers=headers) as http:
        async with http.get("/api/admin/cascade") as response:
            assert "drafter_address" in (await response.json())["problem"]
        for method, path in (("DELETE", "/api/admin/cache"), ("POST", "/api/admin/cascade/draft")):
            async with http.request(method, path, json=CHAT) as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "drafter_missing"


async def test_answers_are_forgotten_by_tenant_and_model(house: House) -> None:
    house.drafter.forgotten_count = 4
    path = "/api/admin/cache"
    status, told = await house.call("DELETE", path, params={"tenant": "t1", "model": "cascade"})
    assert (status, told["forgotten_count"]) == (200, 4)
    await house.call("DELETE", path)
    first, second = house.drafter.forget_requests
    assert (first.tenant, first.model) == ("t1", "cascade")
    assert (second.tenant, second.model) == ("", "")
    assert first.request_id != second.request_id


async def test_a_mistyped_or_empty_parameter_forgets_nothing(house: House) -> None:
    for params, param in (({"tenants": "t1"}, "tenants"), ({"tenant": ""}, "tenant")):
        status, told = await house.call("DELETE", "/api/admin/cache", params=params)
        assert (status, told["error"]["param"]) == (400, param)
    assert not house.drafter.forget_requests


async def test_the_routes_are_for_admins(house: House) -> None:
    made = {"name": "chatter", "scopes": ["chat", "observe"]}
    _, key = await house.call("POST", "/api/admin/keys", json=made)
    headers = {"Authorization": f"Bearer {key['key']}"}
    for method, path in (
        ("GET", "/api/admin/cascade"),
        ("DELETE", "/api/admin/cache"),
        ("POST", "/api/admin/cascade/draft"),
    ):
        assert (await house.call(method, path, headers=headers, json=CHAT))[0] == 403, path
    assert not house.drafter.forget_requests


async def test_a_fleet_draft_is_prepared_and_read_here(house: House) -> None:
    ids = house.drafts("Paris is a city")
    status, told = await house.draft(max_tokens=40)
    assert status == 200, told
    assert (told["text"], told["finish_reason"]) == ("Paris is a city", "stop")
    assert told["model"] == "heavyweight"
    assert [token["renormalised_bits"] for token in told["tokens"]] == [
        index / 4 for index in range(len(ids))
    ]
    assert told["tokens"][1] == {
        "renormalised_bits": 0.25,
        "lower_bits": 0.125,
        "upper_bits": 0.5,
        "margin": 0.5,
        "is_known": True,
    }
    usage = told["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, len(ids))
    (asked,) = house.drafter.answer_requests
    assert asked.is_ungated
    assert asked.cache_use == drafter_pb2.CACHE_USE_NONE
    assert asked.fleet_draft.generate.max_tokens == 40
    assert asked.fleet_draft.generate.token_ids.ids
    assert asked.fleet_draft.generate.sampling.temperature == 0
    assert asked.fleet_draft.plan.model == "heavyweight"
    assert asked.task.messages[0].content[0].text == "hi"


async def test_calls_of_tools_in_a_draft_are_read(house: House) -> None:
    house.drafts('<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>')
    status, told = await house.draft(tools=[TOOL])
    assert status == 200, told
    (call,) = told["tool_calls"]
    assert (call["function"]["name"], told["finish_reason"]) == ("look", "tool_calls")
    assert call["function"]["arguments"].replace(" ", "") == '{"at":1}'


async def test_a_stop_string_ends_a_draft_that_goes_on(house: House) -> None:
    house.drafts("one two three four")
    _, told = await house.draft(stop=[" three"])
    assert (told["text"], told["finish_reason"]) == ("one two", "stop")
    assert told["usage"]["completion_tokens"] == len(told["tokens"])


async def test_a_draft_of_full_length_says_so(house: House) -> None:
    house.drafts("one two", stage_pb2.FINISH_REASON_LENGTH)
    assert (await house.draft())[1]["finish_reason"] == "length"


async def test_an_upstreams_draft_is_text(house: House) -> None:
    house.drafter.described.kind = drafter_pb2.DRAFTER_KIND_UPSTREAM
    house.drafter.described.model = "gpt-4.1-nano"
    deltas = [
        drafter_pb2.DraftDelta(text="Par", first_position=0, doubts=[doubt(0)]),
        drafter_pb2.DraftDelta(text="is", first_position=1, doubts=[doubt(1), doubt(2)]),
    ]
    house.drafter.events = answers(deltas, stage_pb2.FINISH_REASON_STOP)
    status, told = await house.draft(model="cascade")
    assert (status, told["text"], len(told["tokens"])) == (200, "Paris", 3)
    (asked,) = house.drafter.answer_requests
    assert (asked.task.model, asked.task.max_tokens) == ("gpt-4.1-nano", 2048)
    assert not asked.HasField("fleet_draft")
    bound = {"x-shoal-privacy": "lan"}
    path = "/api/admin/cascade/draft"
    assert (await house.call("POST", path, json=CHAT, headers=bound))[0] == 400


async def test_drafts_that_cannot_be_are_refused(house: House) -> None:
    status, told = await house.draft()
    assert (status, told["error"]["code"]) == (503, "drafter_missing")
    house.drafts("hi")
    for more, param in (({"stream": True}, "stream"), ({"n": 2}, "n")):
        status, told = await house.draft(**more)
        assert (status, told["error"]["param"]) == (400, param)
    house.drafter.events = house.drafter.events[:-1]
    status, told = await house.draft()
    assert (status, told["error"]["code"]) == (503, "draft_broken")


async def test_drafts_are_limited_as_answers_are(start_house: Any) -> None:
    async with start_house(rate_limit_admin_rpm=2) as house:
        house.drafts("hi")
        assert [(await house.draft())[0] for _ in range(4)] == [200] * 4
