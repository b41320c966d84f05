"""Responses that are answered without a connection, over a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from redis import asyncio as redis_client

from shoal_common.testing.clock import FakeClock
from shoal_common.testing.redis import RedisProcess
from shoal_gateway.task import Admitted, Finished, TextDelta, Usage

ENDS = ("completed", "failed", "incomplete", "cancelled")


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    """The response once it is ended."""
    stream = await client.responses.retrieve(response_id, stream=True)
    async for _ in stream:
        continue
    found = await client.responses.retrieve(response_id)
    assert found.status in ENDS
    return found


async def begin(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await client.responses.create(
        model="m", input="hi", background=True, **({"store": True} | fields)
    )


def held(*, at: int, texts: tuple[str, ...]) -> tuple[list[Any], asyncio.Event]:
    """An answer that waits before its text number `at` until the event is set."""
    gate = asyncio.Event()
    steps: list[Any] = [TextDelta(text) for text in texts]
    steps.insert(at, gate)
    return [Admitted(1), *steps, Finished("stop", Usage(1, len(texts)))], gate


async def test_it_is_accepted_at_once_and_answered_later(gateway: Any) -> None:
    gateway.backend.script, gate = held(at=1, texts=("a", "b"))
    async with gateway.client() as client:
        raw = await client.responses.with_raw_response.create(
            model="m", input="hi", background=True
        )
        assert raw.status_code == 202
        made = raw.parse()
        assert raw.headers["location"] == f"/v1/responses/{made.id}"
        assert made.status == "queued"
        await gateway.backend.is_holding.wait()
        gate.set()
        found = await ended(client, made.id)
    assert found.status == "completed"
    assert found.output_text == "ab"
    assert gateway.runs.count == 0


async def test_a_queued_one_is_in_progress_once_admitted(gateway: Any) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    gateway.backend.script = [gate, Admitted(1), later, Finished("stop", Usage(1, 0))]
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        assert (await client.responses.retrieve(made.id)).status == "queued"
        stream = await client.responses.retrieve(made.id, stream=True)
        gate.set()
        kinds = []
        async for event in stream:
            kinds.append(event.type)
            if event.type == "response.in_progress":
                assert (await client.responses.retrieve(made.id)).status == "in_progress"
                later.set()
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"


async def test_a_stream_resumes_with_every_event_once(gateway: Any) -> None:
    gateway.backend.script, gate = held(at=2, texts=("a", "b", "c", "d"))
    async with gateway.client() as client:
        first = await begin(client, stream=True)
        seen = []
        async for event in first:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await first.close()
        name = seen[0].response.id
        gate.set()
        rest = await client.responses.retrieve(
            name, stream=True, starting_after=seen[-1].sequence_number
        )
        seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "abcd"
    assert seen[-1].type == "response.completed"


async def test_another_replica_tails_a_live_answer(
    gateway: Any, start_gateway: Any, redis: RedisProcess
) -> None:
    other = await start_gateway(redis.url)
    gateway.backend.script, gate = held(at=1, texts=("a", "b"))
    async with gateway.client() as client, other.client() as elsewhere:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        stream = await elsewhere.responses.retrieve(made.id, stream=True)
        numbers = []
        async for event in stream:
            numbers.append(event.sequence_number)
            if event.type == "response.output_text.delta":
                gate.set()
        assert numbers == list(range(len(numbers)))
        assert (await elsewhere.responses.retrieve(made.id)).output_text == "ab"


async def test_cancel_ends_the_answer_at_its_token(gateway: Any) -> None:
    gateway.backend.script, _ = held(at=2, texts=("a", "b", "never"))
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        cancelled = await client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert cancelled.output_text == "ab"
        assert gateway.backend.is_closed.is_set()
        assert gateway.backend.running_count == 0
        again = await client.responses.cancel(made.id)
        assert again == cancelled
        stream = await client.responses.retrieve(made.id, stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"


async def test_another_replica_cancels(start_gateway: Any, redis: RedisProcess) -> None:
    """The producer hears of it with its next sign of life."""
    producer = await start_gateway(redis.url, alive_s=0.4)
    other = await start_gateway(redis.url, alive_s=0.4)
    producer.backend.script, _ = held(at=1, texts=("a", "never"))
    async with producer.client() as client, other.client() as elsewhere:
        made = await begin(client)
        await producer.backend.is_holding.wait()
        cancelled = await elsewhere.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text == "a"
    assert producer.backend.is_closed.is_set()


async def test_only_background_responses_can_be_cancelled(gateway: Any) -> None:
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input="hi")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(made.id)


async def test_deleting_a_running_one_ends_it(gateway: Any) -> None:
    gateway.backend.script, _ = held(at=1, texts=("a", "never"))
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        await client.responses.delete(made.id)
        assert gateway.backend.is_closed.is_set()
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_more_than_the_bound_are_refused(start_gateway: Any, redis: RedisProcess) -> None:
    gateway = await start_gateway(redis.url, background_max=1)
    gateway.backend.script, gate = held(at=0, texts=("a",))
    async with gateway.client() as client:
        made = await begin(client)
        with pytest.raises(openai.RateLimitError, match="1 responses"):
            await begin(client)
        gate.set()
        await ended(client, made.id)
        # Its task ends right after its end was stored.
        await gateway.runs.cancel(made.id)
        await begin(client)


async def test_an_answer_that_fails_is_stored_as_failed(gateway: Any) -> None:
    gateway.backend.script = [TextDelta("a"), RuntimeError("a fault of ours")]
    async with gateway.client() as client:
        found = await ended(client, (await begin(client)).id)
    assert found.status == "failed"
    assert found.error.code == "server_error"
    assert "fault" not in found.error.message
    assert found.output_text == "a"


async def test_events_beyond_the_bound_fail_the_answer(
    start_gateway: Any, redis: RedisProcess
) -> None:
    gateway = await start_gateway(redis.url, size_bytes_max=8192)
    gateway.backend.script, gate = held(at=0, texts=("a" * 4096,) * 3)
    async with gateway.client() as client:
        made = await begin(client)
        gate.set()
        found = await ended(client, made.id)
    assert found.status == "failed"
    assert "at most 8192" in found.error.message


async def test_a_stopped_gateway_leaves_no_answer_in_progress(
    start_gateway: Any, gateway: Any, redis: RedisProcess
) -> None:
    stopping = await start_gateway(redis.url)
    stopping.backend.script, _ = held(at=1, texts=("a", "never"))
    async with stopping.client() as client:
        made = await begin(client)
        await stopping.backend.is_holding.wait()
    await stopping.runs.close()
    assert stopping.runs.count == 0
    async with gateway.client() as client:
        found = await client.responses.retrieve(made.id)
    assert found.status == "failed"
    assert "stopped" in found.error.message


async def test_an_answer_whose_gateway_died_is_found_failed(
    start_gateway: Any, redis: RedisProcess
) -> None:
    """Its sign of life expires; whoever looks next ends it, and streams end with it."""
    dying = await start_gateway(redis.url, alive_s=0.5)
    dying.backend.script, _ = held(at=1, texts=("a", "never"))
    other = await start_gateway(redis.url, alive_s=0.5)
    async with dying.client() as client, other.client() as elsewhere:
        made = await begin(client)
        await dying.backend.is_holding.wait()
        for _, task in list(dying.runs._runs.values()):
            task.cancel()
            await asyncio.wait((task,))
        async with redis_client.Redis.from_url(redis.url) as direct:
            await direct.delete(f"shoal:response:{{{made.id}}}:alive")
        found = await elsewhere.responses.retrieve(made.id)
        assert found.status == "failed"
        stream = await elsewhere.responses.retrieve(made.id, stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_crash_of_redis_costs_no_event(gateway: Any, redis: RedisProcess) -> None:
    gateway.backend.script, gate = held(at=1, texts=("a", "b", "c"))
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        redis.kill()
        with pytest.raises(openai.InternalServerError) as caught:
            await client.responses.retrieve(made.id)
        assert caught.value.status_code == 503
        gate.set()
        await gateway.backend.is_closed.wait()
        redis.start()
        stream = await client.responses.retrieve(made.id, stream=True)
        events = [event async for event in stream]
        found = await client.responses.retrieve(made.id)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert found.output_text == "abc"


async def test_events_that_redis_took_and_forgot_are_written_again(
    gateway: Any, redis: RedisProcess
) -> None:
    gateway.backend.script, gate = held(at=1, texts=("a", "b", "c"))
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        async with redis_client.Redis.from_url(redis.url) as direct:
            await direct.delete(f"shoal:response:{{{made.id}}}:log")
        gate.set()
        stream = await client.responses.retrieve(made.id, stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


async def test_a_tail_that_loses_redis_ends_with_an_error(
    gateway: Any, redis: RedisProcess
) -> None:
    gateway.backend.script, _ = held(at=1, texts=("a", "never"))
    async with gateway.client() as client:
        stream = await begin(client, stream=True)
        kinds = []
        async for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                redis.kill()
    assert kinds[-1] == "error"
    # A fleet that stops while Redis is away gives its answers up soon.
    redis.start()


async def test_more_tails_than_may_wait_get_every_event(
    start_gateway: Any, redis: RedisProcess
) -> None:
    gateway = await start_gateway(redis.url)
    gateway.backend.script, gate = held(at=1, texts=("a", "b"))

    async def tail(client: openai.AsyncOpenAI, response_id: str) -> list[int]:
        stream = await client.responses.retrieve(response_id, stream=True)
        return [event.sequence_number async for event in stream]

    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
        tails = [asyncio.create_task(tail(client, made.id)) for _ in range(40)]
        found = await client.responses.retrieve(made.id)
        assert found.status == "in_progress"
        gate.set()
        for numbers in await asyncio.gather(*tails):
            assert numbers == list(range(len(numbers)))
            assert len(numbers) == len(await tails[0])


async def test_the_newer_protocol_of_redis_is_spoken_too(
    start_gateway: Any, redis: RedisProcess
) -> None:
    gateway = await start_gateway(f"{redis.url}?protocol=3")
    async with gateway.client() as client:
        found = await ended(client, (await begin(client)).id)
    assert found.output_text == "hello"


async def test_an_end_that_cannot_be_stored_is_given_up_in_time(
    start_gateway: Any, redis: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    gateway = await start_gateway(redis.url, clock=clock)
    gateway.backend.script, gate = held(at=1, texts=("a", "b"))
    async with gateway.client() as client:
        made = await begin(client)
        await gateway.backend.is_holding.wait()
    redis.kill()
    gate.set()
    started_at = clock.monotonic()
    async with asyncio.timeout(20):
        while gateway.runs.count:
            await clock.advance(0.5)
    assert clock.monotonic() - started_at >= 60
    (lost,) = [each for each in caplog.records if each.message == "background response lost"]
    assert lost.response_id == made.id


async def test_a_running_answer_is_said_to_live(start_gateway: Any, redis: RedisProcess) -> None:
    """Long after its first sign of life would have expired nobody takes it for dead."""
    gateway = await start_gateway(redis.url, alive_s=0.4)
    gateway.backend.script, gate = held(at=1, texts=("a", "b"))
    async with gateway.client() as client, redis_client.Redis.from_url(redis.url) as direct:
        made = await begin(client)
        key = f"shoal:response:{{{made.id}}}:alive"
        await gateway.backend.is_holding.wait()
        renewals, left_ms = 0, await direct.pttl(key)
        async with asyncio.timeout(10):
            while renewals < 3:
                now_ms = await direct.pttl(key)
                renewals += now_ms > left_ms
                left_ms = now_ms
        assert (await client.responses.retrieve(made.id)).status == "in_progress"
        gate.set()
        assert (await ended(client, made.id)).output_text == "ab"
        assert not await direct.exists(key)
