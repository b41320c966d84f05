"""Drafts of an upstream over HTTP, with the service before it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2

from .chat_upstream import KEY, ChatUpstream, chat_upstream, chunk, entry, told, usage
from .fleet_fakes import Fleet, running_fleet, task_of

SECRET = "the owl flies at midnight"
Start = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
async def upstream() -> AsyncIterator[ChatUpstream]:
    async with chat_upstream() as fake:
        yield fake


@pytest.fixture
def start(tmp_path: Path, upstream: ChatUpstream) -> Start:
    @asynccontextmanager
    async def begin(**settings: Any) -> AsyncIterator[Fleet]:
        values: dict[str, Any] = {
            "drafter_provider": "openai",
            "drafter_base_url": upstream.url,
            "drafter_api_key": KEY,
            "drafter_model": "small",
            "top_logprobs": 5,
        }
        async with running_fleet(tmp_path, **(values | settings)) as fleet:
            # What was asked at start is another test's.
            upstream.bodies.clear()
            upstream.headers.clear()
            yield fleet

    return begin


def asked(**fields: Any) -> Any:
    return drafter_pb2.AnswerRequest(request_id="q1", task=task_of(SECRET), **fields)


def verdict(events: list[Any]) -> tuple[str, str]:
    judgement = events[-1].judgement
    return drafter_pb2.Verdict.Name(judgement.verdict)[8:], judgement.reason


async def test_text_comes_with_its_entropy_and_is_accepted(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start() as fleet:
        upstream.script = [*told("Par", "is", ".", "!", "!")]
        events = await fleet.answer(asked())
    drafts = [event.draft for event in events if event.HasField("draft")]
    assert [draft.text for draft in drafts] == ["Par", "is", ".", "!", "!"]
    assert [draft.settled_count for draft in drafts] == [0, 0, 0, 1, 2]
    assert not any(draft.tokens for draft in drafts)
    assert events[-2].end.reason == stage_pb2.FINISH_REASON_STOP
    assert events[-2].end.completion_token_count == 5
    assert verdict(events) == ("ACCEPT", "")
    assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (upstream.bodies[0]["top_logprobs"], upstream.bodies[0]["model"]) == (5, "small")


async def test_entries_that_were_dropped_are_doubted(start: Start, upstream: ChatUpstream) -> None:
    async with start() as fleet:
        upstream.script = [*told("Par", "is")[:-1], usage(6)]
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "unknown")


async def test_upstream_that_stops_giving_logprobs_is_doubted(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start() as fleet:
        upstream.script = [*(chunk(word) for word in "abcdef"), chunk(finish="stop")]
        assert verdict(await fleet.answer(asked()))[1] == "unknown"


async def test_tool_call_in_the_draft_is_escalated(start: Start, upstream: ChatUpstream) -> None:
    async with start() as fleet:
        upstream.script = [chunk("Let", [entry("Let")]), chunk(finish="tool_calls")]
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "tool_call")


async def test_request_with_tools_never_reaches_the_upstream(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start() as fleet:
        request = asked()
        request.task.tools.add(name="f")
        assert verdict(await fleet.answer(request)) == ("ESCALATE", "tool_call")
    assert not upstream.bodies


async def test_labelled_prompt_never_reaches_the_upstream(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start() as fleet:
        request = asked()
        request.task.privacy = chat_pb2.PRIVACY_LABEL_POOL
        assert verdict(await fleet.answer(request)) == ("ESCALATE", "error")
    assert not upstream.bodies


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_refusal_of_the_upstream_is_escalated(
    start: Start, upstream: ChatUpstream, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with start() as fleet:
        upstream.status, upstream.problem = status, f"{KEY} may not ask {SECRET}"
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "error")
    written = " ".join(str(vars(record)) for record in caplog.records)
    assert f"HTTP {status}" in written
    assert SECRET not in written
    assert KEY not in written


async def test_stream_that_breaks_is_escalated(start: Start, upstream: ChatUpstream) -> None:
    async with start() as fleet:
        upstream.script, upstream.breaks_at = [*told("a", "b", "c")], 3
        events = await fleet.answer(asked())
        assert [event.WhichOneof("event") for event in events] == ["draft", "draft", "judgement"]
        assert verdict(events) == ("ESCALATE", "error")


async def test_stream_of_nonsense_is_escalated(start: Start, upstream: ChatUpstream) -> None:
    async with start() as fleet:
        upstream.script = [chunk("a", [entry("a")]), "{nonsense " + SECRET]
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "error")
        half = "\ud83d"
        upstream.script = [chunk(half, [entry("a")])]
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "error")
        upstream.script = [{"error": {"message": SECRET}}]
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "error")


async def test_slow_upstream_is_escalated_and_its_connection_closed(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start(drafter_timeout_s=0.3) as fleet:
        upstream.script, upstream.hold_at = [*told("a", "b", "c")], 2
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "timeout")
        await upstream.is_cancelled.wait()


async def test_escalation_closes_the_connection(start: Start, upstream: ChatUpstream) -> None:
    async with start() as fleet:
        doubted = [chunk(word, [entry(word, [])]) for word in "abcd"]
        upstream.script, upstream.hold_at = [*doubted, *told("z")], 4
        assert verdict(await fleet.answer(asked())) == ("ESCALATE", "unknown")
        await upstream.is_cancelled.wait()


async def test_caller_that_goes_away_closes_the_connection(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start() as fleet:
        upstream.script, upstream.hold_at = [*told("a", "b", "c")], 2
        call = fleet.stub.Answer(asked())
        await call.read()
        await upstream.is_holding.wait()
        call.cancel()
        await upstream.is_cancelled.wait()


async def test_stop_of_the_service_waits_for_no_upstream(
    start: Start, upstream: ChatUpstream
) -> None:
    async with start(drain_timeout_s=0.05) as fleet:
        upstream.script, upstream.hold_at = [*told("a", "b", "c")], 2
        call = fleet.stub.Answer(asked())
        await call.read()
        await upstream.is_holding.wait()
    await upstream.is_cancelled.wait()
    assert call.done() or await asyncio.wait_for(call.code(), 5)
