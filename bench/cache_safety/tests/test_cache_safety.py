"""The set of pairs is what it says, and the counting counts."""

from __future__ import annotations

import pytest

from bench.cache_safety.near_misses import NEAR_MISSES
from bench.cache_safety.pairs import HALVES, Pair, near_misses, paraphrases
from bench.cache_safety.paraphrases import PARAPHRASES
from bench.cache_safety.verdicts import Judged, Rule, safe_threshold, share


def test_a_seed_makes_the_same_thousand_different_pairs() -> None:
    for make in (paraphrases, near_misses):
        pairs = make()
        assert pairs == make()
        assert len({(pair.one, pair.other) for pair in pairs}) == len(pairs) == 1000
        assert all(pair.one != pair.other and "{" not in pair.one + pair.other for pair in pairs)
        assert make(seed=7) != pairs


def test_halves_share_no_pair_and_are_even_in_every_kind() -> None:
    pairs = [*paraphrases(), *near_misses()]
    for kind in [*PARAPHRASES, *NEAR_MISSES]:
        counts = [sum(p.kind == kind and p.half == half for p in pairs) for half in HALVES]
        assert abs(counts[0] - counts[1]) <= 1
    texts = [{p.one for p in pairs if p.half == half} for half in HALVES]
    assert not texts[0] & texts[1]


def _judged(is_same: bool, cosine: float, difference: str = "") -> Judged:
    return Judged(Pair("kind", "test", is_same, "a", "b"), cosine, difference)


def test_an_answer_is_shared_above_the_threshold_unless_the_guard_objects() -> None:
    judged = [
        _judged(False, 0.96),
        _judged(False, 0.97, "number"),
        _judged(False, 0.5),
        _judged(True, 0.99),
    ]
    assert share(judged, Rule(0.95, False), False).hit_count == 2
    assert share(judged, Rule(0.95, True), False).hit_count == 1
    assert share(judged, Rule(-1.0, True), False, "test", "kind").hit_count == 2
    assert share(judged, Rule(0.95, True), True).percent == 100
    assert share(judged, Rule(0.95, True), True, "dev").count == 0


def test_the_safe_threshold_lets_no_more_wrong_answers_through_than_allowed() -> None:
    judged = [_judged(False, cosine / 100) for cosine in range(100)]
    safe = safe_threshold(judged, 2.0, "test")
    assert share(judged, Rule(safe, False), False).hit_count == 2


def test_no_false_hit_among_many_is_still_bounded_from_above() -> None:
    none = share([_judged(False, 0.1)] * 500, Rule(0.9, False), False)
    assert none.hit_count == 0
    assert none.upper_percent == pytest.approx(0.54, abs=0.01)
