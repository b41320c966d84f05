"""Server-sent events: their bytes, and silence on a stream."""

from __future__ import annotations

import asyncio
import json
import math
import random
from typing import Any

import pytest

from shoal_gateway.dialects.sse import data_event, json_bytes
from shoal_gateway.http.sse import Silence


def test_an_event_is_one_line_whatever_the_text() -> None:
    assert data_event({"text": "a\nb 🦈"}) == 'data: {"text":"a\\nb 🦈"}\n\n'.encode()
    assert data_event({"a": 1}, "ping") == b'event: ping\ndata: {"a":1}\n\n'


def made_up(source: random.Random, depth: int = 0) -> Any:
    kinds = 7 if depth < 4 else 5
    match source.randrange(kinds):
        case 0:
            return source.choice([None, True, False])
        case 1:
            return source.choice([-1, 1]) * 2 ** source.randrange(80)
        case 2:
            return source.choice([source.uniform(-1e3, 1e3), -0.0, 0.1, 1e-9])
        case 3 | 4:
            letters = 'ab "\\/\n\t\x00\x1f\x7f\u2028é🦈'
            return "".join(source.choices(letters, k=source.randrange(9)))
        case 5:
            return [made_up(source, depth + 1) for _ in range(source.randrange(4))]
        case _:
            keys = ["a", "ключ", "", "x y", "7"]
            return {source.choice(keys): made_up(source, depth + 1) for _ in range(3)}


def test_json_has_the_bytes_of_pythons_own() -> None:
    for seed in range(500):
        value = made_up(random.Random(seed))
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        ours = json_bytes(value)
        # Both write the shortest digits that read the same; only exponents may look different.
        if b"e-" not in plain:
            assert ours == plain, f"seed {seed}"
        assert json.loads(ours) == value, f"seed {seed}"


def test_json_that_only_python_can_write() -> None:
    assert json_bytes({"n": 2**70, 5: "x"}) == b'{"n":1180591620717411303424,"5":"x"}'
    with pytest.raises(UnicodeEncodeError):
        json_bytes({"text": "\ud800"})


def test_no_number_breaks_json() -> None:
    assert json_bytes([math.nan, math.inf]) == b"[null,null]"


async def test_silence_is_answered_each_time_it_has_lasted() -> None:
    spoken = 0
    is_enough = asyncio.Event()

    async def speak() -> None:
        nonlocal spoken
        spoken += 1
        if spoken == 3:
            is_enough.set()

    async with Silence(0.001).answered(speak):
        await is_enough.wait()
    assert spoken >= 3


async def test_a_broken_silence_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        silence = Silence(10.0)
        now[0] += 4
        assert silence.left_s == 6
        silence.broken()
        assert silence.left_s == 10


async def test_nothing_is_left_when_the_context_ends_by_an_error() -> None:
    async def speak() -> None:
        raise AssertionError("it was not silent that long")

    tasks_before = asyncio.all_tasks()
    with pytest.raises(LookupError):
        async with Silence(1000.0).answered(speak):
            raise LookupError
    assert asyncio.all_tasks() == tasks_before


async def test_a_listener_that_has_gone_ends_the_speaking() -> None:
    has_tried = asyncio.Event()

    async def speak() -> None:
        has_tried.set()
        raise ConnectionResetError

    async with Silence(0.001).answered(speak):
        await has_tried.wait()


async def test_an_error_of_the_speaker_comes_out() -> None:
    has_tried = asyncio.Event()

    async def speak() -> None:
        has_tried.set()
        raise LookupError

    async def listen() -> None:
        async with Silence(0.001).answered(speak):
            await has_tried.wait()

    with pytest.raises(LookupError):
        await listen()
