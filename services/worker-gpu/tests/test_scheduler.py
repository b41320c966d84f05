"""Which rows go into the next step."""

from __future__ import annotations

from shoal_worker_gpu.scheduler import Candidate, ChosenRow, StepLimits, choose_rows


def limits_of(
    *, rows: int = 32, depth: int = 1, prompt_tokens: int = 8, prompts: int = 32, beside: int = 1000
) -> StepLimits:
    return StepLimits(rows, depth, prompt_tokens, lambda rows, waiting: beside, prompts)


LIMITS = limits_of()


def decoding(sequence: int, *, in_flight: bool = False, room: int = 5) -> Candidate:
    return Candidate(sequence, computed=10, pending=1, room=room, is_in_flight=in_flight)


def prompt(sequence: int, pending: int, *, room: int = 100) -> Candidate:
    return Candidate(sequence, computed=0, pending=pending, room=room, is_in_flight=False)


def test_every_decoding_sequence_steps_at_once_on_one_stage() -> None:
    rows = choose_rows([decoding(1), decoding(2)], LIMITS)
    assert rows == [ChosenRow(1, 10, 1, True), ChosenRow(2, 10, 1, True)]


def test_a_sequence_in_flight_waits() -> None:
    assert choose_rows([decoding(1, in_flight=True)], LIMITS) == []


def test_two_stages_share_the_sequences_between_their_steps() -> None:
    limits = limits_of(depth=2)
    first = choose_rows([decoding(n) for n in range(1, 6)], limits)
    assert [row.sequence for row in first] == [1, 2, 3]
    flying = {row.sequence for row in first}
    rest = choose_rows([decoding(n, in_flight=n in flying) for n in range(1, 6)], limits)
    assert [row.sequence for row in rest] == [4, 5]


def test_prompts_are_cut_to_the_budget_oldest_first() -> None:
    rows = choose_rows([prompt(1, 5), prompt(2, 20), decoding(3)], LIMITS)
    assert rows == [
        ChosenRow(3, 10, 1, True),
        ChosenRow(1, 0, 5, True),
        ChosenRow(2, 0, 3, False),
    ]


def test_only_the_last_chunk_of_a_prompt_asks_for_a_token() -> None:
    middle = Candidate(1, computed=8, pending=12, room=100, is_in_flight=False)
    last = Candidate(1, computed=16, pending=4, room=100, is_in_flight=False)
    assert [row.wants_token for row in choose_rows([middle], LIMITS)] == [False]
    assert [row.wants_token for row in choose_rows([last], LIMITS)] == [True]


def test_no_row_goes_beyond_the_blocks_that_all_stages_hold() -> None:
    assert choose_rows([decoding(1, room=0)], LIMITS) == []
    assert choose_rows([prompt(2, 8, room=3)], LIMITS) == [ChosenRow(2, 0, 3, False)]


def test_rows_are_bounded() -> None:
    limits = limits_of(rows=2)
    assert len(choose_rows([decoding(n) for n in range(1, 6)], limits)) == 2


def test_prompts_get_little_while_others_decode() -> None:
    limits = limits_of(beside=3)
    assert choose_rows([prompt(1, 20)], limits) == [ChosenRow(1, 0, 8, False)]
    beside = choose_rows([prompt(1, 20), decoding(2)], limits)
    assert beside == [ChosenRow(2, 10, 1, True), ChosenRow(1, 0, 3, False)]
    assert choose_rows([prompt(1, 20), decoding(2, in_flight=True)], limits) == [
        ChosenRow(1, 0, 3, False)
    ]


def test_the_budget_is_asked_for_the_rows_of_this_step() -> None:
    asked: list[tuple[int, int]] = []

    def budget(rows: int, waiting: int) -> int:
        asked.append((rows, waiting))
        return 2

    limits = StepLimits(32, 2, 8, budget, 32)
    choose_rows([*(decoding(n) for n in range(5)), prompt(9, 4), prompt(10, 4)], limits)
    assert asked == [(3, 2)]


def test_prompts_share_a_step_unless_told_not_to() -> None:
    prompts = [prompt(1, 3), prompt(2, 2), prompt(3, 9)]
    assert [row.count for row in choose_rows(prompts, LIMITS)] == [3, 2, 3]
    assert choose_rows(prompts, limits_of(prompts=1)) == [ChosenRow(1, 0, 3, True)]
