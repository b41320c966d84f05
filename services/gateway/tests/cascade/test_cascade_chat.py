"""The cascade as its clients see it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import Overloaded, Unavailable
from shoal_common.testing.waiting import eventually

from .conftest import (
    CHAT,
    DRAFT,
    HEAVY,
    KEY,
    STOP_ID,
    FakeDrafter,
    House,
    accepted,
    begun,
    chunks,
    comments,
    delta,
    described,
    ended,
    first,
    hit,
    streamed,
    verdict,
    whole,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_an_accepted_draft_is_the_answer(house: House) -> None:
    ids = [*house.ids(DRAFT), STOP_ID]
    house.drafter.script = accepted(ids)
    reply = await house.chat()
    text, usage = whole(reply)
    assert text == DRAFT
    assert reply.headers["x-shoal-answered-by"] == "drafter"
    assert reply.headers["x-shoal-entropy"] == "0.250"
    assert "x-shoal-escalation" not in reply.headers
    assert usage["completion_tokens"] == len(ids)
    prompt = usage["prompt_tokens"]
    part = {"prompt_tokens": prompt, "completion_tokens": len(ids)}
    assert usage["by_model"] == {"drafter": part}
    assert house.fleet.stage.requests == []
    assert await house.metric("answers_total", by="drafter") == 1
    assert await house.metric("heavyweight_tokens_saved_total", by="drafter") == len(ids)


async def test_the_drafter_gets_ids_of_its_own_model_and_the_task(house: House) -> None:
    house.drafter.script = accepted([*house.ids(DRAFT), STOP_ID])
    await house.chat(temperature=0.5, seed=9, stop=["!"])
    (request,) = house.drafter.requests
    draft = request.fleet_draft
    assert draft.plan.model == "drafter"
    assert draft.plan.request_id == draft.generate.request_id != request.request_id
    assert len(draft.generate.token_ids.ids) == draft.plan.prompt_token_count > 0
    assert draft.generate.max_tokens == 40
    assert list(draft.generate.stop_token_ids) == list(house.tokens.stop_token_ids)
    assert draft.generate.pipeline == pipeline_pb2.Pipeline(model_revision="r1")
    assert draft.vocabulary_size == house.tokens.tokenizer.get_vocab_size()
    task = request.task
    assert (task.model, task.messages[0].content[0].text) == ("cascade", "hi")
    assert (task.sampling.temperature, task.sampling.seed, list(task.stop)) == (0.5, 9, ["!"])


async def test_a_seed_that_nobody_asked_for_keeps_no_questions_apart(house: House) -> None:
    house.drafter.script = accepted([*house.ids(DRAFT), STOP_ID])
    await house.chat()
    (request,) = house.drafter.requests
    assert request.task.sampling.seed == 0
    assert request.fleet_draft.generate.sampling.seed != 0


async def test_an_escalation_that_is_not_streamed_starts_afresh(house: House) -> None:
    house.fleet.says(HEAVY)
    ids = house.ids(DRAFT)
    house.drafter.script = [*first(ids, 4, settled_count=3), verdict("escalate", "window", 1.5)]
    reply = await house.chat()
    text, usage = whole(reply)
    assert text == HEAVY
    assert list(house.fleet.stage.requests[0].generated.ids) == []
    assert reply.headers["x-shoal-answered-by"] == "heavyweight"
    assert reply.headers["x-shoal-entropy"] == "1.500"
    assert reply.headers["x-shoal-escalation"] == "window"
    heavy_count = len(house.ids(HEAVY)) + 1
    assert usage["completion_tokens"] == heavy_count
    assert usage["by_model"]["drafter"]["completion_tokens"] == 4
    assert usage["by_model"]["heavyweight"]["completion_tokens"] == heavy_count
    assert await house.metric("escalations_total", reason="window") == 1
    assert await house.metric("draft_tokens_wasted_total") == 4
    assert await house.metric("escalation_latency_seconds_count") == 1


async def test_a_stream_goes_on_behind_what_is_settled(house: House) -> None:
    house.fleet.says(HEAVY)
    ids = house.ids(HEAVY)
    house.drafter.script = [*first(ids, 5, settled_count=3), verdict("escalate", "window")]
    reply = await house.chat(stream=True, stream_options={"include_usage": True})
    assert streamed(reply) == HEAVY
    (request,) = house.fleet.stage.requests
    assert list(request.generated.ids) == ids[:3]
    assert reply.headers["x-shoal-answered-by"] == "drafter"
    assert comments(reply)["x-shoal-answered-by"] == "drafter+heavyweight"
    usage = chunks(reply)[-1]["usage"]
    assert usage["completion_tokens"] == len(ids) + 1
    assert usage["by_model"]["drafter"]["completion_tokens"] == 5
    assert usage["by_model"]["heavyweight"]["completion_tokens"] == len(ids) + 1 - 3
    assert await house.metric("answers_total", by="drafter+heavyweight") == 1
    assert await house.metric("draft_tokens_wasted_total") == 2


async def test_settled_tokens_leave_before_the_draft_has_ended(house: House) -> None:
    ids = [*house.ids(DRAFT), STOP_ID]
    steps, gate = accepted(ids), asyncio.Event()
    house.drafter.script = [*steps[:5], gate, *steps[5:]]
    url = f"{house.fleet.url}/v1/chat/completions"
    async with house.session.post(url, json=CHAT | {"stream": True}) as reply:
        seen = b""
        while b'"content":"one' not in seen.replace(b" ", b""):
            seen += await reply.content.readline()
        assert b"[DONE]" not in seen
        gate.set()
        seen += await reply.content.read()
    assert b"[DONE]" in seen


async def test_speculation_that_is_taken_over_has_begun_before_the_verdict(house: House) -> None:
    house.fleet.says(HEAVY)
    gate = asyncio.Event()
    ids = house.ids(HEAVY)
    house.drafter.script = [
        *first(ids, 4, settled_count=3),
        verdict("speculate", "soft"),
        gate,
        verdict("escalate", "window"),
    ]
    asking = asyncio.create_task(house.chat(stream=True))
    await house.drafter.is_waiting.wait()
    house.fleet.stage.hold = 5
    await house.fleet.stage.is_holding.wait()
    gate.set()
    house.fleet.stage.hold = None
    assert streamed(await asking) == HEAVY
    assert len(house.fleet.stage.requests) == 1
    assert await house.metric("speculations_total", outcome="started") == 1
    assert await house.metric("speculations_total", outcome="used") == 1
    assert await house.metric("head_start_seconds_count") == 1


async def test_a_draft_that_recovers_cancels_the_heavyweight(house: House) -> None:
    house.fleet.says(HEAVY)
    house.fleet.stage.hold = 4
    gate = asyncio.Event()
    ids = [*house.ids(DRAFT), STOP_ID]
    house.drafter.script = [
        *first(ids, 3, settled_count=2),
        verdict("speculate", "soft"),
        gate,
        verdict("recover", "calm"),
        *accepted(ids)[4:],
    ]
    asking = asyncio.create_task(house.chat(stream=True))
    await house.fleet.stage.is_holding.wait()
    gate.set()
    assert streamed(await asking) == DRAFT
    await house.fleet.stage.is_cancelled.wait()
    await house.fleet.router.is_closed.wait()
    await eventually(lambda: house.fleet.stage.running_count == 0)
    assert await house.metric("speculations_total", outcome="cancelled") == 1


async def test_a_draft_accepted_beside_the_heavyweight_tells_what_both_computed(
    house: House,
) -> None:
    house.fleet.says(HEAVY)
    house.fleet.stage.hold = 3
    ids, gate = [*house.ids(DRAFT), STOP_ID], asyncio.Event()
    steps = accepted(ids)
    house.drafter.script = [*steps[:3], verdict("speculate", "soft"), gate, *steps[3:]]
    asking = asyncio.create_task(house.chat())
    await house.fleet.stage.is_holding.wait()
    gate.set()
    text, usage = whole(await asking)
    assert text == DRAFT
    assert usage["by_model"]["heavyweight"]["prompt_tokens"] > 0
    assert usage["by_model"]["drafter"]["completion_tokens"] == len(ids)
    await eventually(lambda: house.fleet.stage.running_count == 0)


async def test_without_speculation_the_heavyweight_waits_for_the_last_verdict(
    start_house: Any,
) -> None:
    drafter = FakeDrafter()
    drafter.described = described(is_speculative=False)
    async with start_house(drafter) as house:
        house.fleet.says(HEAVY)
        gate = asyncio.Event()
        ids = house.ids(DRAFT)
        drafter.script = [*first(ids, 3), verdict("speculate", "soft"), gate]
        drafter.script += [delta(ids[3:4], 3), verdict("escalate", "window")]
        asking = asyncio.create_task(house.chat())
        await drafter.is_waiting.wait()
        # The verdict came before the wait, so it has been read once this question is answered.
        assert await house.metric("speculations_total", outcome="started") == 0
        assert house.fleet.stage.requests == []
        gate.set()
        assert whole(await asking)[0] == HEAVY
        assert await house.metric("head_start_seconds_count") == 0


async def test_a_kept_answer_is_given_with_how_near_and_how_old_it_is(house: House) -> None:
    house.drafter.script = [hit("kept words")]
    reply = await house.chat()
    text, usage = whole(reply)
    assert text == "kept words"
    assert reply.headers["x-shoal-answered-by"] == "cache"
    assert reply.headers["x-shoal-cache"] == "semantic; similarity=0.97; age=12"
    assert "x-shoal-entropy" not in reply.headers
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (11, 4)
    assert usage["by_model"] == {}
    assert house.drafter.remembered == []
    assert await house.metric("cache_answers_total", layer="semantic") == 1
    assert await house.metric("heavyweight_tokens_saved_total", by="cache") == 4


async def test_an_accepted_answer_is_remembered_once(house: House) -> None:
    ids = [*house.ids(DRAFT), STOP_ID]
    house.drafter.script = accepted(ids)
    await house.chat()
    await house.drafter.has_remembered.wait()
    (kept,) = house.drafter.remembered
    assert (kept.text, kept.answered_by) == (DRAFT, "drafter")
    assert kept.completion_token_count == len(ids)
    assert kept.task == house.drafter.requests[0].task


@pytest.mark.parametrize(
    ("headers", "use", "is_kept"),
    [
        ({"Cache_Control": "no-cache"}, 1, True),
        ({"Cache_Control": "no-store"}, 2, False),
        ({"x_shoal_privacy": "pool"}, 2, False),
    ],
)
async def test_headers_rule_the_cache(
    house: House, headers: dict[str, str], use: int, is_kept: bool
) -> None:
    house.drafter.script = accepted([*house.ids(DRAFT), STOP_ID])
    reply = await house.post("/v1/chat/completions", CHAT, **headers)
    assert whole(reply)[0] == DRAFT
    assert house.drafter.requests[0].cache_use == use
    if is_kept:
        await house.drafter.has_remembered.wait()
    assert len(house.drafter.remembered) == int(is_kept)


async def test_a_cut_draft_is_not_remembered(house: House) -> None:
    ids = house.ids(DRAFT)
    house.drafter.script = [
        *accepted(ids)[:-2],
        ended(len(ids), is_length=True),
        verdict("accept"),
    ]
    reply = await house.chat()
    assert json.loads(reply.text)["choices"][0]["finish_reason"] == "length"
    assert house.drafter.remembered == []


async def test_a_stop_string_ends_a_draft_that_runs_on(house: House) -> None:
    ids = house.ids("one two END three four")
    stop_at = len(house.ids("one two END"))
    script = [*first(ids, len(ids), settled_count=stop_at), asyncio.Event()]
    house.drafter.script = script
    for is_stream in (False, True):
        reply = await house.chat(stop=[" END"], stream=is_stream)
        assert (streamed(reply) if is_stream else whole(reply)[0]) == "one two"
    await house.drafter.is_free.wait()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(Unavailable("gone"), "error"), (Overloaded("full"), "overloaded")],
)
async def test_a_lost_draft_is_the_heavyweights(house: House, failure: Any, reason: str) -> None:
    house.fleet.says(HEAVY)
    ids = house.ids(HEAVY)
    for count in range(4):
        house.drafter.script = [*first(ids, count, settled_count=max(0, count - 1)), failure]
        assert whole(await house.chat())[0] == HEAVY
        assert streamed(await house.chat(stream=True)) == HEAVY
    assert await house.metric("escalations_total", reason=reason) == 8


async def test_a_drafter_that_ends_without_a_verdict_is_lost(house: House) -> None:
    house.fleet.says(HEAVY)
    house.drafter.script = first(house.ids(DRAFT), 2)
    reply = await house.chat()
    assert whole(reply)[0] == HEAVY
    assert reply.headers["x-shoal-escalation"] == "error"


async def test_whoever_leaves_frees_draft_and_heavyweight(house: House) -> None:
    house.fleet.says(HEAVY)
    house.fleet.stage.hold = 4
    house.drafter.script = [
        *first(house.ids(DRAFT), 4, settled_count=2),
        verdict("speculate", "soft"),
        asyncio.Event(),
    ]
    asking = asyncio.create_task(house.chat(stream=True))
    await house.drafter.is_waiting.wait()
    await house.fleet.stage.is_holding.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await house.drafter.is_free.wait()
    await house.fleet.stage.is_cancelled.wait()
    await house.fleet.router.is_closed.wait()
    await eventually(lambda: house.drafter.running_count == house.fleet.stage.running_count == 0)


async def test_the_heavyweights_death_behind_a_prefix_ends_the_stream(house: House) -> None:
    house.fleet.says(HEAVY)
    house.fleet.router.plan_count = 0
    house.fleet.router.error = Overloaded("the queue is full")
    ids = house.ids(HEAVY)
    house.drafter.script = [*first(ids, 5, settled_count=3), verdict("escalate", "window")]
    reply = await house.chat(stream=True)
    assert reply.status == 200
    assert "the queue is full" in reply.text
    assert "[DONE]" not in reply.text
    house.drafter.script = [verdict("escalate", "empty")]
    assert (await house.chat(stream=True)).status == 429


async def test_each_choice_has_a_draft_of_its_own(house: House) -> None:
    house.drafter.script = accepted([*house.ids(DRAFT), STOP_ID])
    reply = await house.chat(n=3)
    body = json.loads(reply.text)
    assert [choice["message"]["content"] for choice in body["choices"]] == [DRAFT] * 3
    count = len(house.ids(DRAFT)) + 1
    assert body["usage"]["by_model"]["drafter"]["completion_tokens"] == 3 * count
    requests = house.drafter.requests
    assert len({request.request_id for request in requests}) == 3
    assert len({request.fleet_draft.generate.sampling.seed for request in requests}) == 3
    assert sorted(request.cache_use for request in requests) == [0, 2, 2]
    assert reply.headers["x-shoal-answered-by"] == "drafter, drafter, drafter"


async def test_openais_client_reads_an_escalated_stream(house: House) -> None:
    house.fleet.says(HEAVY)
    ids = house.ids(HEAVY)
    house.drafter.script = [*first(ids, 5, settled_count=3), verdict("escalate", "window")]
    async with AsyncOpenAI(base_url=f"{house.fleet.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(
            **CHAT, stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]
        said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert said == HEAVY
        assert parts[-1].usage.model_extra["by_model"]["drafter"]["completion_tokens"] == 5
        response = await client.responses.create(model="cascade", input="hi", store=False)
        assert response.output_text == HEAVY
        assert set(response.usage.model_extra["by_model"]) == {"drafter", "heavyweight"}


async def test_anthropics_client_reads_an_escalated_stream(house: House) -> None:
    house.fleet.says(HEAVY)
    ids = house.ids(HEAVY)
    house.drafter.script = [*first(ids, 5, settled_count=3), verdict("escalate", "window")]
    async with AsyncAnthropic(base_url=house.fleet.url, api_key=KEY, max_retries=0) as client:
        async with client.messages.stream(**CHAT, max_tokens=40) as stream:
            message = await stream.get_final_message()
        assert message.content[0].text == HEAVY
        whole = await client.messages.create(**CHAT, max_tokens=40)
        assert whole.content[0].text == HEAVY
        assert set(whole.usage.model_extra["by_model"]) == {"drafter", "heavyweight"}


async def test_the_cascade_is_listed_while_its_heavyweight_is_there(house: House) -> None:
    listed = json.loads((await house.get("/v1/models")).text)["data"]
    assert {"id": "cascade", "owned_by": "shoal"}.items() <= listed[2].items()
    house.fleet.router.models = ["drafter"]
    listed = json.loads((await house.get("/v1/models")).text)["data"]
    assert [model["id"] for model in listed] == ["drafter"]


async def test_begun_names_the_drafts_pipeline(house: House) -> None:
    ids = [*house.ids(DRAFT), STOP_ID]
    house.drafter.script = accepted(ids)
    assert house.drafter.script[0] == begun()
    reply = await house.chat()
    assert reply.headers["x-shoal-route"].startswith("p-draft")
