"""What an answer costs, and what the history keeps of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shoal_common.errors import Unavailable
from shoal_common.testing.clock import FakeClock
from shoal_gateway.access.budgets import Budgets
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.history import Entry, History
from shoal_gateway.task import Admitted, ChatTask, Event, Finished, TextDelta, Usage

TASK = ChatTask(model="m", messages=(), tenant="team")


class FakeAnswer:
    """Says `events`, then raises `error` if there is one."""

    model = "m"
    fingerprint = "fp"

    def __init__(self, events: list[Event], error: Exception | None = None) -> None:
        self._events = events
        self._error = error
        self.is_closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            for event in self._events:
                yield event
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


@pytest.fixture
async def budgets(tmp_path: Path) -> AsyncGenerator[Budgets, None]:
    database = Database(sqlite_url(tmp_path / "gateway.db"))
    await database.start()
    yield Budgets(database, FakeClock())
    await database.close()


def history(keeps_bodies: bool = False) -> History:
    made = History(10, keeps_bodies)
    made.begin(Entry("req-1", "POST", "/v1/chat/completions", 0.0))
    return made


PIECES: list[Event] = [Admitted(prompt_tokens=7), TextDelta("a"), TextDelta("b")]


async def test_an_answer_costs_what_its_end_says(budgets: Budgets) -> None:
    kept = history()
    answer = FakeAnswer([*PIECES, Finished("stop", Usage(7, 5))])
    metered = TokenMeter(budgets, kept).metered("req-1", TASK, answer)
    assert (metered.model, metered.fingerprint) == ("m", "fp")
    assert [event async for event in metered.events()][-1] == Finished("stop", Usage(7, 5))
    assert await budgets.used("team") == 12
    entry = kept.show("req-1")
    assert entry is not None
    assert (entry.model, entry.prompt_tokens, entry.completion_tokens) == ("m", 7, 5)


async def test_whoever_hangs_up_pays_for_what_was_made(budgets: Budgets) -> None:
    answer = FakeAnswer([*PIECES, Finished("stop", Usage(7, 5))])
    events = TokenMeter(budgets, history()).metered("req-1", TASK, answer).events()
    for _ in range(3):
        await anext(events)
    await events.aclose()
    assert answer.is_closed
    assert await budgets.used("team") == 9


async def test_an_answer_that_fails_midway_counts_too(budgets: Budgets) -> None:
    answer = FakeAnswer(PIECES, Unavailable("gone"))
    with pytest.raises(Unavailable):
        _ = [e async for e in TokenMeter(budgets, history()).metered("r", TASK, answer).events()]
    assert await budgets.used("team") == 9


async def test_choices_of_one_request_add_up_in_its_entry(budgets: Budgets) -> None:
    kept = history()
    meter = TokenMeter(budgets, kept)
    for part in ("req-1-0", "req-1-1", "req-1-p1-0", "elsewhere-2"):
        meter.metered(part, TASK, FakeAnswer([]))
        meter.count(part, "team", Usage(1, 10))
    entry = kept.show("req-1")
    assert entry is not None
    assert (entry.prompt_tokens, entry.completion_tokens) == (3, 30)
    assert kept.sums()["models"] == {
        "m": {"answers": 4, "prompt_tokens": 3, "completion_tokens": 30}
    }


async def test_texts_are_kept_only_when_asked_for(budgets: Budgets) -> None:
    for keeps_bodies, text in ((False, ""), (True, "ab")):
        kept = history(keeps_bodies)
        metered = TokenMeter(budgets, kept).metered("req-1", TASK, FakeAnswer(PIECES))
        _ = [event async for event in metered.events()]
        entry = kept.show("req-1")
        assert entry is not None
        kept.asked(entry, b"question")
        assert entry.reply_text == text
        assert entry.request_body == ("question" if keeps_bodies else "")


def test_the_ring_holds_the_newest() -> None:
    ring = History(2, keeps_bodies=False)
    entries = [Entry(f"req-{index}", "GET", "/v1/models", 0.0) for index in range(3)]
    for index, entry in enumerate(entries):
        ring.begin(entry)
        ring.end(entry, 200, "ok", float(index))
    assert [entry.request_id for entry in ring.newest()] == ["req-2", "req-1"]
    assert ring.show("req-0") is None
    sums = ring.sums()
    assert (sums["requests"], sums["running"]) == ({"ok": 3}, 0)
    assert sums["duration_s"] == {"count": 2, "p50": 2.0, "p95": 2.0, "max": 2.0}


def test_a_ring_of_nothing_still_counts() -> None:
    ring = History(0, keeps_bodies=True)
    entry = Entry("req-1", "GET", "/v1/models", 0.0)
    ring.begin(entry)
    assert ring.sums()["running"] == 1
    ring.end(entry, 200, "ok", 1.0)
    assert ring.newest() == []
    assert ring.sums() == {
        "requests": {"ok": 1},
        "running": 0,
        "models": {},
        "duration_s": {"count": 0, "p50": None, "p95": None, "max": None},
    }
