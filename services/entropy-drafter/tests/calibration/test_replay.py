"""Replaying a draft for all thresholds at once says what the gate says for each."""

from math import inf
from random import Random

import pytest

from shoal_entropy_drafter.calibration.cases import Answered
from shoal_entropy_drafter.calibration.replay import Judging, thresholds_between, track_of
from shoal_entropy_drafter.entropy import Entropy, unknown
from shoal_entropy_drafter.gate import Gate, Verdict

CANDIDATES = 20


def random_draft(rng: Random) -> Answered:
    entropies = []
    for _ in range(rng.randint(1, 14)):
        bits = rng.uniform(0, 4)
        low, high = bits * 0.9, bits * 1.2
        known = Entropy(low, high, bits, rng.random(), True)
        entropies.append(unknown(CANDIDATES) if rng.random() < 0.05 else known)
    # Some sources count the end of turn, some hide tokens.
    return Answered("", (), len(entropies) + rng.choice((0, 1, 1, 3)), 0.0, tuple(entropies))


def stop_of(draft: Answered, judging: Judging, threshold: float) -> int | None:
    """Tokens that the gate itself saw before it gave up."""
    gate = Gate(judging.rules(threshold))
    for index, entropy in enumerate(draft.entropies, 1):
        if gate.feed(entropy).verdict is Verdict.ESCALATE:
            return index
    judgement = gate.finish(draft.completion_tokens)
    return len(draft.entropies) if judgement.verdict is Verdict.ESCALATE else None


@pytest.mark.parametrize("statistic", ["mean", "max", "margin"])
@pytest.mark.parametrize("estimate", ["renormalised", "upper"])
def test_every_threshold_stops_where_the_gate_does(statistic: str, estimate: str) -> None:
    seed = 77
    print(f"seed {seed}")
    rng = Random(seed)
    for _ in range(60):
        judging = Judging(
            rng.choice((1, 2, 4, 8)), rng.choice((1, 4, 10)), CANDIDATES, statistic, estimate
        )  # type: ignore[arg-type]
        draft = random_draft(rng)
        track = track_of(draft, judging)
        for _ in range(6):
            threshold = rng.uniform(0.01, 4)
            assert track.tokens_until_escalation(threshold) == stop_of(draft, judging, threshold)


def test_an_empty_draft_escalates_always() -> None:
    track = track_of(Answered("", (), 0, 0.0), Judging(4, 4, CANDIDATES))
    assert track.score == inf
    assert track.tokens_until_escalation(1e9) == 0


def test_thresholds_tell_all_scores_apart() -> None:
    judging = Judging(1, 1, CANDIDATES)
    drafts = [
        Answered("", (), 1, 0.0, (Entropy(bits, bits, bits, 0.5, True),))
        for bits in (0.0, 1.0, 1.0, 2.0, 3.0)
    ]
    tracks = [track_of(draft, judging) for draft in drafts]
    found = thresholds_between(tracks, 100)
    assert found == sorted(found)
    escalated = [sum(track.score > threshold for track in tracks) for threshold in found]
    assert escalated == [4, 2, 1, 0]


def test_many_thresholds_are_thinned_and_keep_both_ends() -> None:
    judging = Judging(1, 1, CANDIDATES)
    tracks = [
        track_of(Answered("", (), 1, 0.0, (Entropy(b, b, b, 0.5, True),)), judging)
        for b in (index / 100 for index in range(1, 301))
    ]
    found = thresholds_between(tracks, 20)
    assert len(found) == 20
    assert all(track.score > found[0] for track in tracks)
    assert not any(track.score > found[-1] for track in tracks)
    assert thresholds_between(tracks[:0], 20) == []
