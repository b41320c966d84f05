"""Measures on answers, checked by hand-worked cases."""

import pytest
from recipe.metrics import (
    Answer,
    accepted_proposals,
    auroc,
    cascade,
    tokens_until_escalation,
    window_means,
    wrongness_auroc,
)


def answer(*bits: float, is_right: bool = True) -> Answer:
    return Answer(tuple(range(len(bits))), bits, is_right)


def test_window_means_slide_by_one_token() -> None:
    assert window_means([1.0, 3.0, 5.0], 2) == [2.0, 4.0]


def test_short_answers_form_one_window() -> None:
    assert window_means([1.0, 3.0], 4) == [2.0]


def test_auroc_counts_ties_half() -> None:
    assert auroc([3.0, 1.0, 1.0, 0.0], [True, True, False, False]) == 3.5 / 4


def test_auroc_needs_both_labels() -> None:
    with pytest.raises(ValueError, match="positive"):
        auroc([1.0], [True])


def test_wrong_answers_with_a_peak_are_told_apart() -> None:
    answers = [answer(0.0, 0.1), answer(0.0, 2.0, 0.0, is_right=False)]
    assert wrongness_auroc(answers, 1) == 1.0


def test_escalation_stops_at_the_first_window_over_the_threshold() -> None:
    draft = answer(0.0, 0.0, 2.0, 2.0, 9.0)
    assert tokens_until_escalation(draft, 2, 0.9) == 3
    assert tokens_until_escalation(draft, 2, 1.5) == 4
    assert tokens_until_escalation(draft, 2, 6.0) is None


def test_cascade_counts_the_draft_and_the_second_answer() -> None:
    drafts = [answer(0.0, 0.0), answer(3.0, 3.0, is_right=False)]
    heavies = [answer(0.0, 0.0), answer(0.0, 0.0)]
    point = cascade(drafts, heavies, parameter_ratio=0.25, window=1, threshold_bits=1.0)
    assert (point.escalated_share, point.accuracy) == (0.5, 1.0)
    assert point.cost == pytest.approx((0.25 * 2 + 0.25 * 1 + 2) / 4)


def test_speculation_gains_a_token_per_pass_besides_the_accepted() -> None:
    matches = [True, True, False, True, True, True, True, True]
    # Passes: 2 accepted + 1 corrected, then 4 accepted + 1 of the heavyweight's own.
    assert accepted_proposals(matches, 4) == (6, 8, 2)
