"""What a token's candidates are worth, against distributions whose entropy is known."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal_entropy_drafter.entropy import (
    VOCABULARY_SIZE_MAX,
    Entropy,
    Estimate,
    Statistic,
    doubt_max,
    entropy_of,
    unknown,
)

NAN, INF = float("nan"), float("inf")
ROUNDING = 1e-9


def true_bits(shares: Sequence[float]) -> float:
    return math.fsum(-p * math.log2(p) for p in shares if p > 0)


def logs(shares: Sequence[float]) -> list[float]:
    return [math.log(p) if p > 0 else -INF for p in shares]


def distributions(size_max: int = 60) -> st.SearchStrategy[list[float]]:
    """Every token of a vocabulary, the likeliest first; flat ones, peaked ones, some zeros."""
    weights = st.lists(
        st.one_of(st.floats(0, 1), st.floats(0, 1e-6), st.just(0.0), st.integers(1, 50)),
        min_size=2,
        max_size=size_max,
    ).filter(lambda found: sum(found) > 1e-3)
    return weights.map(lambda found: sorted((w / math.fsum(found) for w in found), reverse=True))


@given(distributions(), st.integers(2, 20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_true_entropy_lies_between_the_bounds(
    shares: list[float], candidate_count: int, is_size_known: bool
) -> None:
    size = len(shares) if is_size_known else 0
    found = entropy_of(logs(shares[:candidate_count]), candidate_count, size)
    assert found.is_known
    assert found.lower - ROUNDING <= true_bits(shares) <= found.upper + ROUNDING


@given(distributions(), st.integers(2, 20))
@settings(max_examples=200, deadline=None)
def test_the_candidates_alone_are_scaled_to_one(shares: list[float], candidate_count: int) -> None:
    shown = shares[:candidate_count]
    found = entropy_of(logs(shown), candidate_count, len(shares))
    scaled = [p / math.fsum(shown) for p in shown]
    assert found.renormalised == pytest.approx(true_bits(scaled), abs=1e-6)
    assert found.margin == pytest.approx(shown[0] - shown[1], abs=ROUNDING)


@given(distributions(), st.integers(2, 20))
@settings(max_examples=200, deadline=None)
def test_a_whole_list_hides_only_more_entropy(shares: list[float], candidate_count: int) -> None:
    found = entropy_of(logs(shares[:candidate_count]), candidate_count, len(shares))
    assert found.renormalised <= found.lower + 1e-6
    assert found.lower <= found.upper


def test_both_bounds_are_reached() -> None:
    shown = [0.4, 0.2, 0.1]
    found = entropy_of(logs(shown), 3, 100)
    packed = [*shown, 0.1, 0.1, 0.1]
    spread = [*shown, *[0.3 / 97] * 97]
    assert found.lower == pytest.approx(true_bits(packed), abs=ROUNDING)
    assert found.upper == pytest.approx(true_bits(spread), abs=ROUNDING)


def test_the_rest_of_the_hidden_mass_is_one_token_more() -> None:
    found = entropy_of(logs([0.5, 0.2]), 2, 100)
    assert found.lower == pytest.approx(true_bits([0.5, 0.2, 0.2, 0.1]), abs=ROUNDING)


def test_an_unknown_vocabulary_is_as_large_as_any() -> None:
    shown = logs([0.5, 0.2])
    assert entropy_of(shown, 2) == entropy_of(shown, 2, VOCABULARY_SIZE_MAX)
    assert entropy_of(shown, 2).upper > entropy_of(shown, 2, 262_144).upper


def test_a_lone_candidate_that_is_certain_leaves_no_doubt() -> None:
    found = entropy_of([0.0], 20)
    assert found == Entropy(lower=0.0, upper=0.0, renormalised=0.0, margin=1.0, is_known=True)


def test_a_lone_candidate_that_is_not_certain_is_doubted() -> None:
    found = entropy_of([math.log(0.6)], 20, 1000)
    # The others asked for may share what is missing, or one may have it all.
    assert found.renormalised == pytest.approx(true_bits([0.6, *[0.4 / 19] * 19]))
    assert found.lower == pytest.approx(true_bits([0.6, 0.4]))
    assert found.upper == pytest.approx(true_bits([0.6, *[0.4 / 999] * 999]))
    assert found.margin == pytest.approx(0.2)


def test_a_list_that_may_lack_the_likeliest_token_is_unknown() -> None:
    assert entropy_of([math.log(0.4)], 20) == unknown(20)
    assert entropy_of(logs([0.3, 0.1, 0.01]), 20, 500) == unknown(20, 500)
    assert entropy_of([math.log(1e-9)], 20) == unknown(20)


def test_fewer_candidates_than_asked_are_fine_where_nothing_is_missing() -> None:
    found = entropy_of(logs([0.75, 0.25]), 20)
    assert found.renormalised == pytest.approx(true_bits([0.75, 0.25]))
    assert found.upper == pytest.approx(found.lower)


def test_a_tail_that_is_missing_costs_little() -> None:
    # Asked for 20, this source shows five.
    found = entropy_of(logs([0.9, 0.05, 0.02, 0.01, 0.01]), 20)
    assert true_bits([0.9, 0.05, 0.02, 0.01, 0.01]) < found.renormalised < 0.8
    assert found.is_known


@pytest.mark.parametrize(
    "logprobs",
    [
        [],
        [NAN],
        [-0.1, NAN],
        [NAN, -0.1],
        [INF],
        [INF, -INF],
        [-INF],
        [-INF, -INF],
        [-9999.0],
        [0.7],
        [1e300],
        [-0.1, -0.2],
        [-0.01] * 20,
        [math.log(0.6), *[-200.0] * 19],
        [-600.0] * 20,
    ],
    ids=str,
)
def test_what_cannot_be_read_is_unknown(logprobs: list[float]) -> None:
    assert entropy_of(logprobs, 20) == unknown(20)
    assert entropy_of(logprobs, 20, 1536) == unknown(20, 1536)


def test_the_unknown_is_the_most_there_can_be() -> None:
    found = unknown(20, 1536)
    most = math.log2(1536)
    assert found == Entropy(most, most, math.log2(20), margin=0.0, is_known=False)
    assert unknown(20).upper == math.log2(VOCABULARY_SIZE_MAX)


def test_sums_that_rounding_lifts_above_one_are_scaled() -> None:
    found = entropy_of(logs([0.503, 0.502]), 2)
    assert found.is_known
    assert found.renormalised == pytest.approx(1.0, abs=1e-5)
    assert found.lower == found.upper == found.renormalised
    assert entropy_of([0.004], 20).renormalised == pytest.approx(0.0, abs=ROUNDING)
    assert entropy_of([0.004], 20).margin == 1.0
    assert entropy_of(logs([0.9, 0.105]), 2).margin == pytest.approx(0.795 / 1.005)


@pytest.mark.parametrize("count", range(2, 21))
def test_even_candidates_reach_the_most_and_no_more(count: int) -> None:
    found = entropy_of(logs([1 / count] * count), count, count)
    assert found.lower <= found.upper <= math.log2(count)
    for mass in (1.0, 0.99, 0.5, 0.3):
        renormalised = entropy_of(logs([mass / count] * count), count).renormalised
        assert renormalised == pytest.approx(math.log2(count))
        assert renormalised <= math.log2(count)


def test_impossible_tokens_change_nothing() -> None:
    bare = entropy_of(logs([0.75, 0.25]), 20)
    assert entropy_of([*logs([0.75, 0.25]), -INF, -9999.0], 20) == bare


def test_a_chosen_token_behind_the_likeliest_is_cut() -> None:
    shown = logs([0.6, 0.3, 0.05])
    assert entropy_of([*shown, math.log(0.001)], 3) == entropy_of(shown, 3)


def test_a_vocabulary_smaller_than_the_list_asked_for_is_whole() -> None:
    found = entropy_of(logs([0.5, 0.25, 0.25]), 20, 3)
    assert found.lower == found.upper == pytest.approx(1.5)
    assert unknown(20, 3).renormalised == pytest.approx(math.log2(3))


wild = st.one_of(
    st.floats(), st.floats(-30, 0.02), st.sampled_from([0.0, -9999.0, -INF, INF, NAN, -0.7])
)


@given(st.lists(wild, max_size=30), st.integers(2, 20), st.sampled_from([0, 2, 5, 1536]))
@settings(max_examples=300, deadline=None)
@example([0.009], 2, 0)
@example([-700.0] * 3, 2, 0)
@example([-5e-324, -0.0], 20, 0)
def test_every_list_gives_numbers_within_their_bounds(
    logprobs: list[float], candidate_count: int, vocabulary_size: int
) -> None:
    found = entropy_of(logprobs, candidate_count, vocabulary_size)
    listed = min(candidate_count, vocabulary_size or candidate_count)
    assert 0 <= found.lower <= found.upper <= math.log2(vocabulary_size or VOCABULARY_SIZE_MAX)
    assert 0 <= found.renormalised <= math.log2(listed)
    assert 0 <= found.margin <= 1
    if not found.is_known:
        assert found == unknown(candidate_count, vocabulary_size)


@given(st.lists(st.floats(-12, 0), max_size=22), st.integers(2, 20), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_candidates_means_nothing(
    logprobs: list[float], candidate_count: int, order: random.Random
) -> None:
    mixed = list(logprobs)
    order.shuffle(mixed)
    assert entropy_of(mixed, candidate_count) == entropy_of(logprobs, candidate_count)


@given(distributions(), st.integers(2, 20), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_a_list_that_was_cut_short_does_not_bound_the_truth_out(
    shares: list[float], candidate_count: int, shown_count: int
) -> None:
    shown = shares[: min(shown_count, candidate_count)]
    found = entropy_of(logs(shown), candidate_count, len(shares))
    assert found.upper + ROUNDING >= true_bits(shares)
    assert not found.is_known or found.lower - ROUNDING <= true_bits(shares)


@given(st.integers(2, 20), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_missing_mass_is_never_confident(candidate_count: int, share_of_10_000: int) -> None:
    share, hidden = share_of_10_000 / 10_000, (10_000 - share_of_10_000) / 10_000
    found = entropy_of(logs([share]), candidate_count)
    assert found.renormalised >= true_bits([share, hidden]) - ROUNDING or not found.is_known
    assert found.margin <= max(0.0, share - hidden) + ROUNDING


@pytest.mark.parametrize("statistic", ["mean", "max"])
@pytest.mark.parametrize("estimate", ["renormalised", "lower", "upper"])
def test_doubt_reads_the_estimate(statistic: Statistic, estimate: Estimate) -> None:
    found = Entropy(lower=1.0, upper=3.0, renormalised=2.0, margin=0.25, is_known=True)
    assert found.doubt(statistic, estimate) == getattr(found, estimate)
    assert found.doubt("margin", estimate) == 0.75


def test_no_doubt_exceeds_the_most() -> None:
    assert doubt_max("mean", "renormalised", 20) == math.log2(20)
    assert doubt_max("max", "lower", 20, 1536) == math.log2(1536)
    assert doubt_max("margin", "upper", 20) == 1.0
