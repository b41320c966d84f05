"""The order of a generation's events, and when it is finished."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.worker.v1 import stage_pb2
from shoal_common.errors import StageFailed
from shoal_common.ids import new_sequence_id
from shoal_worker_gpu.generation import Generation, Phase, youngest

PROMPT = [5, 6, 7]
STOP = 2


def generation(**changes: Any) -> Generation:
    values: dict[str, Any] = {
        "sequence": new_sequence_id(),
        "attempt": 1,
        "request": stage_pb2.GenerateRequest(),
        "ids": list(PROMPT),
        "prompt_count": len(PROMPT),
        "first_new": 0,
        "max_tokens": 3,
        "stop_ids": frozenset({STOP}),
        "arrived_at": 100.0,
        "deadline_at": None,
    }
    return Generation(**{**values, **changes})


def result(position: int, token_id: int | None, *, near_tie: bool = False) -> stage_pb2.RowResult:
    row = stage_pb2.RowResult(position=position, near_tie=near_tie)
    if token_id is not None:
        row.token.token_id = token_id
    return row


def events(found: Generation) -> list[Any]:
    taken = []
    while not found.events.empty():
        taken.append(found.events.get_nowait())
    return taken


def test_the_limit_ends_it_behind_its_last_token() -> None:
    found = generation()
    for position, token_id in enumerate((11, 12, 13), start=2):
        found.accept(result(position, token_id, near_tie=token_id == 12))
    *deltas, last = events(found)
    assert [d.tokens.first_position for d in deltas] == [0, 1, 2]
    assert [d.tokens.tokens[0].token_id for d in deltas] == [11, 12, 13]
    assert last.finished.reason == stage_pb2.FINISH_REASON_LENGTH
    assert last.finished.prompt_token_count == 3
    assert last.finished.generated_token_count == 3
    assert last.finished.near_tie_count == 1
    assert found.phase is Phase.ENDED


def test_a_stop_id_is_delivered_and_ends_it() -> None:
    found = generation()
    found.accept(result(2, STOP))
    delta, last = events(found)
    assert delta.tokens.tokens[0].token_id == STOP
    assert last.finished.reason == stage_pb2.FINISH_REASON_STOP


def test_a_chunk_of_a_prompt_says_nothing() -> None:
    found = generation()
    found.accept(result(1, None))
    assert events(found) == []
    assert (found.computed, found.ids) == (2, PROMPT)


def test_a_replay_numbers_its_tokens_behind_those_delivered() -> None:
    found = generation(ids=[*PROMPT, 11, 12], first_new=2)
    found.accept(result(4, 13))
    delta, last = events(found)
    assert delta.tokens.first_position == 2
    assert last.finished.generated_token_count == 3


def test_put_back_keeps_the_ids_and_counts_the_attempt() -> None:
    found = generation()
    found.admitted(now=100.5, room=16, cached_count=0)
    found.accept(result(2, 11))
    found.is_in_flight = found.is_growing = True
    found.put_back()
    assert (found.phase, found.attempt) == (Phase.WAITING, 2)
    assert (found.ids, found.computed, found.room) == ([*PROMPT, 11], 0, 0)
    candidate = found.as_candidate()
    assert (candidate.pending, candidate.is_in_flight, candidate.is_decoding) == (4, False, False)


def test_it_tells_how_long_it_waited() -> None:
    found = generation()
    found.admitted(now=100.25, room=16, cached_count=0)
    assert events(found)[0].admitted.queued_ms == 250


def test_only_the_first_end_counts() -> None:
    found = generation(max_tokens=1)
    found.accept(result(2, 11))
    found.fail(StageFailed("w", "too late"))
    assert [type(event) for event in events(found)] == [stage_pb2.GenerateResponse] * 2
    failed = generation()
    failed.fail(StageFailed("w", "first"))
    failed.fail(StageFailed("w", "second"))
    (error,) = events(failed)
    assert error.detail == "first"


@pytest.mark.parametrize("count", [0, 3])
def test_the_youngest_arrived_last(count: int) -> None:
    found = [generation(arrived_at=float(n)) for n in range(count)]
    assert youngest(found) is (found[-1] if found else None)
