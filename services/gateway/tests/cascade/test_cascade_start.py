"""What is refused at the start, what is only told, and who answers where there is no draft."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from shoal.drafter.v1 import drafter_pb2
from shoal_common.errors import InvalidRequest
from shoal_common.settings import ConfigurationError
from shoal_common.testing.waiting import eventually, eventually_told
from shoal_gateway.cascade.opening import check_settings
from shoal_gateway.settings import Settings

from .conftest import (
    CHAT,
    STOP_ID,
    FakeDrafter,
    House,
    accepted,
    described,
    ended,
    first,
    verdict,
)

HEAVY = "one two three and then the rest"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"idle_timeout_s": 60.0}, "heavyweight_timeout_s is 60 s and idle_timeout_s 60 s: lower"),
        ({"cascade_model": "heavyweight"}, "are both 'heavyweight'"),
        ({"heavyweight_model": ""}, "heavyweight_model is empty"),
        (
            {"cloud_models": {"cascade": {"base_url": "http://127.0.0.1:1"}}},
            "cascade_model 'cascade' is one of cloud_models",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_settings(Settings(drafter_address="127.0.0.1:1", **changes))
    check_settings(Settings(**changes))


async def test_a_drafter_that_may_take_longer_than_the_heavyweight_is_refused(
    start_house: Any,
) -> None:
    drafter = FakeDrafter()
    drafter.described = described(timeout_ms=60_000)
    with pytest.raises(ConfigurationError, match=r"drafter_timeout_s is 60 s .* lower the first"):
        async with start_house(drafter):
            pass


async def test_a_drafter_that_is_away_costs_no_answer_and_is_found_again(
    start_house: Any,
) -> None:
    async with start_house(default_model="cascade") as house:
        house.fleet.says(HEAVY)
        await house.drafter_server.stop()
        for asked in (CHAT, {"messages": CHAT["messages"]}):
            reply = await house.post("/v1/chat/completions", asked)
            assert json.loads(reply.text)["choices"][0]["message"]["content"] == HEAVY
            assert json.loads(reply.text)["model"] == "cascade"
            assert reply.headers["x-shoal-answered-by"] == "heavyweight"
        # The first learned it from a draft that failed, the second knew.
        assert await house.metric("escalations_total", reason="error") == 1
        assert await house.metric("bypasses_total", reason="unreachable") == 1


async def test_without_metrics_nothing_is_counted(start_house: Any) -> None:
    async with start_house(metrics_enabled=False) as house:
        house.drafter.script = accepted([*house.ids(HEAVY), STOP_ID])
        assert (await house.chat()).status == 200


@pytest.mark.asyncio(loop_scope="package")
async def test_what_is_not_worth_a_draft_goes_straight_to_the_heavyweight(house: House) -> None:
    house.fleet.says("a")
    reply = await house.chat(logprobs=True)
    body = json.loads(reply.text)
    assert body["choices"][0]["logprobs"]["content"]
    assert reply.headers["x-shoal-answered-by"] == "heavyweight"
    assert reply.headers["x-shoal-escalation"] == "logprobs"
    assert set(body["usage"]["by_model"]) == {"heavyweight"}
    assert house.drafter.requests == []
    assert await house.metric("bypasses_total", reason="logprobs") == 1


async def test_a_drafter_model_that_is_not_there_is_the_heavyweights(start_house: Any) -> None:
    async with start_house() as house:
        house.fleet.says(HEAVY)
        house.fleet.router.models = ["heavyweight"]
        assert (await house.chat()).headers["x-shoal-escalation"] == "not_ready"
        assert house.drafter.requests == []


async def test_a_drafter_model_that_nobody_holds_is_loaded_for_those_who_come_later(
    start_house: Any,
) -> None:
    async with start_house() as house:
        house.fleet.says(HEAVY)
        router = house.fleet.router
        router.is_ready, router.is_loadable = False, True

        async def is_asleep() -> bool:
            return (await house.chat()).headers.get("x-shoal-escalation") == "not_ready"

        await eventually_told(is_asleep)
        await eventually(lambda: "drafter" in [opened.model for opened in router.opened])
        await eventually(lambda: router.closed_count == len(router.opened))


async def test_older_completions_know_the_cascade(start_house: Any) -> None:
    async with start_house() as house:
        house.fleet.says(HEAVY)
        reply = await house.post("/v1/completions", {"model": "cascade", "prompt": "one"})
        assert json.loads(reply.text)["choices"][0]["text"] == HEAVY
        assert reply.headers["x-shoal-escalation"] == "raw_prompt"


@pytest.mark.asyncio(loop_scope="package")
async def test_what_the_heavyweight_refuses_is_refused_at_once(house: House) -> None:
    reply = await house.chat(max_tokens=5000)
    assert reply.status == 400
    assert json.loads(reply.text)["error"]["code"] == "prompt_too_long"
    assert house.drafter.requests == []


@pytest.mark.asyncio(loop_scope="package")
async def test_a_draft_that_the_drafter_refuses_is_the_heavyweights(house: House) -> None:
    house.fleet.says(HEAVY)
    house.drafter.script = [InvalidRequest("no such draft")]
    reply = await house.chat()
    assert json.loads(reply.text)["choices"][0]["message"]["content"] == HEAVY


@pytest.mark.parametrize(
    ("drafted", "is_escalated", "agrees"),
    [(HEAVY, False, True), (HEAVY, True, True), ("wrong", False, False), ("wrong", True, False)],
)
async def test_an_audit_compares_what_both_models_say(
    start_house: Any, drafted: str, is_escalated: bool, agrees: bool
) -> None:
    async with start_house(cascade_audit_share=1.0) as house:
        house.fleet.says(HEAVY)
        ids = [*house.ids(drafted), STOP_ID]
        house.drafter.script = accepted(ids)
        if is_escalated:
            house.drafter.script = [*first(ids, 1), verdict("escalate", "window")]
        house.drafter.ungated = [*accepted(ids)[:-2], ended(len(ids))]
        await house.chat(temperature=0.7)
        words = {True: "yes", False: "no"}
        labels = {"escalated": words[is_escalated], "agrees": words[agrees]}
        audited = 0.0
        async with asyncio.timeout(10):
            while not audited:
                # The names of labels stand in a line in the order of the alphabet.
                audited = await house.metric("audits_total", **dict(sorted(labels.items())))
        asked = house.drafter.requests[-1]
        assert asked.is_ungated
        assert asked.fleet_draft.generate.sampling.temperature == 0
        assert asked.cache_use == drafter_pb2.CACHE_USE_NONE
        assert house.fleet.stage.requests[-1].sampling.temperature == 0


@pytest.mark.parametrize("header", [{"x_shoal_privacy": "pool"}, {"Cache_Control": "no-store"}])
async def test_what_must_leave_no_trace_is_never_audited(
    start_house: Any, header: dict[str, str]
) -> None:
    async with start_house(cascade_audit_share=1.0) as house:
        house.drafter.script = accepted([*house.ids(HEAVY), STOP_ID])
        await house.post("/v1/chat/completions", CHAT, **header)
        await house.get("/health")
        assert len(house.drafter.requests) == 1
