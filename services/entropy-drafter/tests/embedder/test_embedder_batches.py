"""Texts computed together: all of them, within bounds, with little padding."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shoal_entropy_drafter.embedder.batches import RUN_TOKENS, batched

LENGTHS = st.lists(st.integers(1, 256), max_size=60)


def padded(lengths: Sequence[int], batch: Sequence[int]) -> int:
    return len(batch) * max(lengths[index] for index in batch)


@given(LENGTHS)
def test_every_text_is_in_one_batch(lengths: list[int]) -> None:
    placed = [index for batch in batched(lengths, 256) for index in batch]
    assert sorted(placed) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 512))
def test_a_padded_batch_keeps_to_the_bound_unless_it_is_one_text(
    lengths: list[int], tokens_max: int
) -> None:
    for batch in batched(lengths, tokens_max):
        assert len(batch) == 1 or padded(lengths, batch) <= tokens_max


@given(LENGTHS)
def test_padding_never_costs_more_than_runs_of_their_own(lengths: list[int]) -> None:
    batches = batched(lengths, 256)
    cost = sum(padded(lengths, batch) + RUN_TOKENS for batch in batches)
    assert cost <= sum(length + RUN_TOKENS for length in lengths)


def test_a_short_text_does_not_pay_for_a_long_one() -> None:
    assert batched([256, 3], 256) == [[1], [0]]
    assert batched([120, 3], 256) == [[1], [0]]


def test_texts_of_one_length_share_runs() -> None:
    assert [len(batch) for batch in batched([9] * 60, 256)] == [28, 28, 4]


def test_no_texts_need_no_batch() -> None:
    assert batched([], 256) == []
