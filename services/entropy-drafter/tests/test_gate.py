"""Verdicts on drafts, against a reference that looks at every window anew."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_entropy_drafter.entropy import Entropy, entropy_of, unknown
from shoal_entropy_drafter.gate import Gate, GateRules, Judgement, Reason, Verdict

CANDIDATES, VOCABULARY = 4, 16
CONTINUE, SPECULATE, RECOVER = Verdict.CONTINUE, Verdict.SPECULATE, Verdict.RECOVER
ESCALATE, ACCEPT = Verdict.ESCALATE, Verdict.ACCEPT


def token(doubt: float) -> Entropy:
    """A known token whose every reading is different."""
    return Entropy(
        lower=doubt, upper=2 * doubt, renormalised=doubt, margin=1 - doubt / 2, is_known=True
    )


UNKNOWN = unknown(CANDIDATES, VOCABULARY)


def rules_of(**values: object) -> GateRules:
    usual = GateRules(
        1.0, window_size=4, early_exit_count=2, candidate_count=CANDIDATES, soft_threshold_mult=0.5
    )
    return dataclasses.replace(usual, vocabulary_size=VOCABULARY, **values)  # type: ignore[arg-type]


def judged(
    rules: GateRules, tokens: Sequence[Entropy], completion_token_count: int | None = None
) -> list[Judgement]:
    """The judgement of every token and of the end."""
    gate = Gate(rules)
    return [*(gate.feed(one) for one in tokens), gate.finish(completion_token_count)]


def verdicts(rules: GateRules, doubts: Sequence[float]) -> list[Verdict]:
    """Of every token; the end is left out."""
    return [one.verdict for one in judged(rules, [token(doubt) for doubt in doubts])[:-1]]


# The reference: every statement of the rules, word by word, over all tokens so far.


def statistic_of(rules: GateRules, tokens: Sequence[Entropy]) -> Fraction:
    if rules.statistic == "margin":
        return sum((1 - Fraction(t.margin) for t in tokens), Fraction()) / len(tokens)
    bits = [Fraction(getattr(one, rules.estimate)) for one in tokens]
    return max(bits) if rules.statistic == "max" else sum(bits, Fraction()) / len(bits)


def failure_of(rules: GateRules, tokens: Sequence[Entropy], is_end: bool = False) -> str:
    """Why the draft fails with the last of these tokens; "" where it does not."""
    count, width = len(tokens), rules.window_size
    if count == rules.early_exit_count <= width:
        span, reason = tokens, "early_exit"
    elif count >= width:
        span, reason = tokens[-width:], "window"
    elif is_end:
        span, reason = tokens, "end"
    else:
        return ""
    if statistic_of(rules, span) <= Fraction(rules.threshold):
        return ""
    return reason if all(one.is_known for one in span) else "unknown"


def soft_verdicts(rules: GateRules, tokens: Sequence[Entropy]) -> list[tuple[Verdict, str]]:
    found: list[tuple[Verdict, str]] = []
    soft = Fraction(rules.soft_threshold)
    above = [
        statistic_of(rules, tokens[max(0, n - rules.window_size) : n]) > soft
        for n in range(1, len(tokens) + 1)
    ]
    half = math.ceil(rules.window_size / 2)
    is_running = False
    for n in range(1, len(tokens) + 1):
        recent = above[max(0, n - half) : n]
        is_judged = n >= rules.window_size or n >= rules.early_exit_count
        if not is_running and above[n - 1] and rules.is_speculative:
            is_running = True
            found.append((SPECULATE, "soft"))
        elif is_running and is_judged and len(recent) == half and not any(recent):
            is_running = False
            found.append((RECOVER, "calm"))
        else:
            found.append((CONTINUE, ""))
    return found


def settled(rules: GateRules, count: int) -> int:
    """Tokens of the first `count`, all of which passed, that no later window holds."""
    if count < rules.early_exit_count:
        return 0
    found = 0
    while all(
        start + rules.window_size <= count
        for start in range(max(0, found - rules.window_size + 1), found + 1)
    ):
        found += 1
    return found


def expected(
    rules: GateRules, tokens: Sequence[Entropy], completion_token_count: int | None
) -> list[tuple[Verdict, str, int]]:
    found: list[tuple[Verdict, str, int]] = []
    for n, soft in enumerate(soft_verdicts(rules, tokens), 1):
        if reason := failure_of(rules, tokens[:n]):
            failed = (ESCALATE, reason, settled(rules, n - 1))
            return found + [failed] * (len(tokens) - n + 2)
        found.append((*soft, settled(rules, n)))
    if not tokens:
        return [(ESCALATE, "empty", 0)]
    missing = (completion_token_count or 0) - len(tokens)
    everything = [*tokens, *[UNKNOWN] * (missing if missing > 1 else 0)]
    reasons = [failure_of(rules, everything[:n]) for n in range(len(tokens), len(everything) + 1)]
    reasons.append(failure_of(rules, everything, is_end=True))
    if reason := next(filter(None, reasons), ""):
        return [*found, (ESCALATE, reason, settled(rules, len(tokens)))]
    return [*found, (ACCEPT, "settled", len(tokens))]


# Multiples of 1/32 and powers of two: means compare exactly, so that ties are tried, too.
doubts = st.integers(0, 64).map(lambda n: n / 32)
tokens_strategy = st.lists(
    st.one_of(doubts.map(token), doubts.map(lambda d: token(d / 4)), st.just(UNKNOWN)), max_size=40
)
rules_strategy = st.builds(
    GateRules,
    threshold=st.integers(1, 80).map(lambda n: n / 32),
    window_size=st.integers(1, 12),
    early_exit_count=st.integers(1, 14),
    candidate_count=st.just(CANDIDATES),
    soft_threshold_mult=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    statistic=st.sampled_from(["mean", "max", "margin"]),
    estimate=st.sampled_from(["renormalised", "lower", "upper"]),
    is_speculative=st.booleans(),
    vocabulary_size=st.just(VOCABULARY),
)
counts = st.one_of(st.none(), st.integers(0, 60))


@given(rules_strategy, tokens_strategy, st.one_of(st.none(), st.integers(-2, 14)))
@settings(max_examples=500, deadline=None)
def test_every_verdict_is_that_of_the_reference(
    rules: GateRules, tokens: list[Entropy], missing: int | None
) -> None:
    completion_token_count = None if missing is None else max(0, len(tokens) + missing)
    found = judged(rules, tokens, completion_token_count)
    shown = [(one.verdict, one.reason, one.settled_count) for one in found]
    assert shown == expected(rules, tokens, completion_token_count)


@given(rules_strategy, tokens_strategy, counts, st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_a_lower_threshold_never_escalates_later(
    rules: GateRules, tokens: list[Entropy], completion_token_count: int | None, other: int
) -> None:
    def escalated_at(threshold: float) -> int:
        found = judged(
            dataclasses.replace(rules, threshold=threshold), tokens, completion_token_count
        )
        at = [n for n, one in enumerate(found) if one.verdict is ESCALATE]
        return at[0] if at else len(found)

    low, high = sorted((rules.threshold, other / 32))
    assert escalated_at(low) <= escalated_at(high)


@given(rules_strategy, st.lists(doubts.map(token), min_size=1, max_size=30), counts)
@settings(max_examples=200, deadline=None)
def test_the_highest_statistic_tells_which_thresholds_escalate(
    rules: GateRules, tokens: list[Entropy], completion_token_count: int | None
) -> None:
    gate = Gate(dataclasses.replace(rules, threshold=math.inf))
    for one in tokens:
        assert gate.feed(one).verdict is not ESCALATE
    assert gate.finish(completion_token_count).verdict is ACCEPT
    end = judged(rules, tokens, completion_token_count)[-1]
    assert (end.verdict is ESCALATE) == (gate.highest > rules.threshold)
    if gate.highest > 0:
        equal = dataclasses.replace(rules, threshold=gate.highest)
        assert judged(equal, tokens, completion_token_count)[-1].verdict is ACCEPT


@given(rules_strategy, tokens_strategy, counts)
@settings(max_examples=200, deadline=None)
def test_settled_tokens_stay_settled_and_never_failed(
    rules: GateRules, tokens: list[Entropy], completion_token_count: int | None
) -> None:
    found = judged(rules, tokens, completion_token_count)
    settled_counts = [one.settled_count for one in found]
    assert settled_counts == sorted(settled_counts)
    failed = [n for n, one in enumerate(found) if one.verdict is ESCALATE]
    if failed and failed[0] < len(tokens):
        assert settled_counts[-1] <= max(0, failed[0] + 1 - rules.window_size)
    assert settled_counts[-1] <= len(tokens)


@given(rules_strategy, tokens_strategy)
@settings(max_examples=200, deadline=None)
def test_the_heavyweight_starts_at_most_once_in_half_a_window_and_a_token(
    rules: GateRules, tokens: list[Entropy]
) -> None:
    found = [one.verdict for one in judged(rules, tokens)]
    turns = [(n, one) for n, one in enumerate(found) if one in (SPECULATE, RECOVER)]
    assert [one for _, one in turns] == [SPECULATE, RECOVER] * (len(turns) // 2) + [SPECULATE] * (
        len(turns) % 2
    )
    starts = [n for n, one in turns if one is SPECULATE]
    half = math.ceil(rules.window_size / 2)
    assert all(later - earlier > half for earlier, later in pairwise(starts))


@pytest.mark.parametrize("statistic", ["mean", "max"])
def test_a_long_draft_does_not_drift(statistic: str) -> None:
    seed = 20261121
    source = random.Random(seed)
    gate = Gate(rules_of(threshold=math.inf, window_size=37, statistic=statistic))
    values: list[float] = []
    for n in range(30_000):
        values.append(source.choice((1e-9, 0.1, 1.0, 20.0)) * source.random())
        found = gate.feed(token(values[-1])).statistic
        if n % 101 == 0:
            recent = values[-37:]
            mean = math.fsum(recent) / len(recent)
            wanted = mean if statistic == "mean" else max(recent)
            assert found == pytest.approx(wanted, abs=2**-32), f"seed {seed}, token {n}"
    for _ in range(37):
        found = gate.feed(token(0.0)).statistic
    assert found == 0.0


def test_a_full_window_above_the_threshold_escalates() -> None:
    found = judged(rules_of(), [token(d) for d in (0.0, 0.0, 2.0, 2.0, 0.25, 0.0)])
    assert [one.verdict for one in found] == [
        CONTINUE, CONTINUE, SPECULATE, CONTINUE, ESCALATE, ESCALATE, ESCALATE
    ]  # fmt: skip
    assert (found[4].reason, found[4].statistic) == ("window", 1.0625)
    assert found[4].settled_count == 1


def test_the_first_tokens_are_judged_together() -> None:
    (_, second, *_) = judged(rules_of(), [token(1.0), token(1.5)])
    assert (second.verdict, second.reason, second.settled_count) == (ESCALATE, "early_exit", 0)


def test_a_window_of_the_early_tokens_is_the_early_exit() -> None:
    found = judged(rules_of(window_size=2), [token(1.5), token(1.5)])
    assert found[1].reason == "early_exit"


def test_an_early_exit_behind_the_first_window_is_not_judged_apart() -> None:
    rules = rules_of(window_size=2, early_exit_count=3)
    found = judged(rules, [token(d) for d in (0.0, 0.5, 2.0)])
    assert (found[2].verdict, found[2].reason, found[2].settled_count) == (ESCALATE, "window", 0)


def test_a_short_draft_is_judged_as_a_whole_at_its_end() -> None:
    found = judged(rules_of(early_exit_count=4), [token(1.5)])
    assert [(one.verdict, one.reason) for one in found] == [
        (SPECULATE, "soft"),
        (ESCALATE, "end"),
    ]
    accepted = judged(rules_of(early_exit_count=4), [token(0.25)])[-1]
    assert (accepted.verdict, accepted.reason, accepted.settled_count) == (ACCEPT, "settled", 1)


def test_what_equals_the_threshold_stands() -> None:
    rules = rules_of(threshold=0.8)
    assert judged(rules, [token(0.8)] * 9)[-1].verdict is ACCEPT
    assert judged(rules, [token(0.8)] * 8 + [token(0.81)])[-1].verdict is ESCALATE


def test_doubt_starts_the_heavyweight_with_the_first_token() -> None:
    assert verdicts(rules_of(), [0.75, 0.75, 0.75]) == [SPECULATE, CONTINUE, CONTINUE]


def test_calm_of_half_a_window_recovers() -> None:
    found = verdicts(rules_of(), [0.75, 0.75, 0.25, 0.0, 0.0, 0.0, 2.0, 0.5])
    assert found == [
        SPECULATE, CONTINUE, CONTINUE, CONTINUE, RECOVER, CONTINUE, CONTINUE, SPECULATE
    ]  # fmt: skip


def test_calm_before_the_first_tokens_are_judged_does_not_recover() -> None:
    rules = rules_of(window_size=6, early_exit_count=5)
    found = verdicts(rules, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    # At or below 0.5 from the second token on, three in a row with the fourth.
    assert found == [SPECULATE, CONTINUE, CONTINUE, CONTINUE, RECOVER, CONTINUE]


def test_strictly_serial_gates_never_speculate() -> None:
    found = verdicts(rules_of(is_speculative=False), [0.75, 0.75, 0.0, 0.0, 0.0, 0.0])
    assert found == [CONTINUE] * 6


def test_nothing_changes_after_an_escalation() -> None:
    gate = Gate(rules_of())
    gate.feed(token(2.0))
    failed = gate.feed(token(2.0))
    assert failed.verdict is ESCALATE
    for _ in range(9):
        assert gate.feed(token(0.0)) is failed
    assert gate.finish(None) is failed
    assert gate.finish(400) is failed
    assert (gate.token_count, gate.settled_count, gate.highest) == (2, 0, 2.0)
    assert gate.statistic == failed.statistic == 2.0


def test_tokens_without_candidates_are_doubted_most() -> None:
    for estimate, most in (("renormalised", 2.0), ("lower", 4.0), ("upper", 4.0)):
        gate = Gate(rules_of(threshold=math.inf, estimate=estimate))
        assert gate.feed(entropy_of([], CANDIDATES, VOCABULARY)).statistic == most
    gate = Gate(rules_of(threshold=math.inf, statistic="margin"))
    assert gate.feed(UNKNOWN).statistic == 1.0


def test_an_escalation_over_unknown_tokens_says_so() -> None:
    found = judged(rules_of(), [token(0.25), UNKNOWN])
    assert (found[1].verdict, found[1].reason) == (ESCALATE, "unknown")


def test_a_token_that_was_never_shown_is_the_end_of_turn() -> None:
    sure = [token(0.0)] * 6
    for completion_token_count in (None, 0, 5, 6, 7):
        rules = rules_of(threshold=0.25)
        assert judged(rules, sure, completion_token_count)[-1].verdict is ACCEPT


def test_more_tokens_that_were_never_shown_are_doubted() -> None:
    sure = [token(0.0)] * 6
    # Two of a window of four, each of 2 bits, reach the threshold of 1 bit; three exceed it.
    assert judged(rules_of(), sure, 8)[-1].verdict is ACCEPT
    end = judged(rules_of(), sure, 9)[-1]
    assert (end.verdict, end.reason, end.settled_count) == (ESCALATE, "unknown", 3)
    assert judged(rules_of(threshold=0.9), sure, 8)[-1].verdict is ESCALATE


def test_a_source_that_claims_absurd_counts_is_judged_at_once() -> None:
    assert judged(rules_of(), [token(0.0)], 1 << 60)[-1].reason == "unknown"


@pytest.mark.parametrize("completion_token_count", [None, 0, 1, 30])
def test_an_empty_draft_is_no_answer(completion_token_count: int | None) -> None:
    (end,) = judged(rules_of(threshold=math.inf), [], completion_token_count)
    assert (end.verdict, end.reason, end.settled_count) == (ESCALATE, "empty", 0)


def test_an_accepted_draft_stays_accepted_and_takes_no_more() -> None:
    gate = Gate(rules_of())
    gate.feed(token(0.0))
    accepted = gate.finish(1)
    assert gate.finish(99) is accepted
    with pytest.raises(AssertionError, match="has ended"):
        gate.feed(token(0.0))


def test_the_early_exit_is_passed_by_its_tokens_or_by_a_draft_that_stands() -> None:
    gate = Gate(rules_of())
    assert not gate.is_early_exit_passed
    gate.feed(token(0.0))
    assert not gate.is_early_exit_passed
    gate.feed(token(0.0))
    assert gate.is_early_exit_passed
    assert gate.settled_count == 0

    short = Gate(rules_of())
    short.feed(token(0.0))
    short.finish(None)
    assert short.is_early_exit_passed

    failed = Gate(rules_of())
    failed.feed(token(2.0))
    failed.feed(token(2.0))
    assert not failed.is_early_exit_passed


def test_nothing_settles_before_a_long_early_exit_has_passed() -> None:
    found = judged(rules_of(window_size=2, early_exit_count=5), [token(0.0)] * 6)
    assert [one.settled_count for one in found] == [0, 0, 0, 0, 4, 5, 6]


def test_every_reason_of_the_closed_set_is_given() -> None:
    drafts: list[tuple[list[Entropy], int | None]] = [
        ([token(0.75), *[token(0.0)] * 6], None),
        ([token(0.0)] * 4 + [token(2.0)] * 3, None),
        ([token(2.0)] * 2, None),
        ([token(2.0)], None),
        ([UNKNOWN] * 2, None),
        ([], None),
    ]
    found = {one.reason for tokens, count in drafts for one in judged(rules_of(), tokens, count)}
    assert found == set(get_args(Reason))


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 0.0},
        {"threshold": math.nan},
        {"window_size": 0},
        {"early_exit_count": 0},
        {"candidate_count": 1},
        {"soft_threshold_mult": 0.0},
        {"soft_threshold_mult": 1.5},
    ],
    ids=str,
)
def test_rules_without_sense_cannot_be_made(values: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        rules_of(**values)
