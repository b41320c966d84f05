"""Measures on answers: windowed entropy, AUROC, cascade cost, speculative acceptance. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """A greedy answer: its ids, the entropy in bits at each of them, and whether it is right."""

    token_ids: tuple[int, ...]
    entropy_bits: tuple[float, ...]
    is_right: bool

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.entropy_bits) > 0


@dataclass(frozen=True)
class CascadePoint:
    """What a cascade does at one threshold, shares and costs as fractions.

    cost counts generated tokens times parameters, relative to the heavyweight answering alone.
    """

    threshold_bits: float
    escalated_share: float
    accuracy: float
    cost: float


def window_means(entropy_bits: Sequence[float], window: int) -> list[float]:
    """Mean entropy of every full window; of all tokens if there are fewer than a window."""
    width = min(window, len(entropy_bits))
    return [
        sum(entropy_bits[start : start + width]) / width
        for start in range(len(entropy_bits) - width + 1)
    ]


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Chance that a random positive scores above a random negative; ties count half.

    Raises ValueError unless both labels occur.
    """
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    if not positives or not negatives:
        raise ValueError("AUROC needs at least one positive and one negative")
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def wrongness_auroc(answers: Sequence[Answer], window: int) -> float:
    """How well the largest windowed entropy tells wrong answers from right ones."""
    scores = [max(window_means(answer.entropy_bits, window)) for answer in answers]
    return auroc(scores, [not answer.is_right for answer in answers])


def tokens_until_escalation(answer: Answer, window: int, threshold_bits: float) -> int | None:
    """Tokens the drafter has written when a window first exceeds the threshold; None: never."""
    means = window_means(answer.entropy_bits, window)
    first_stop = len(answer.token_ids) - len(means) + 1
    for index, mean in enumerate(means):
        if mean > threshold_bits:
            return first_stop + index
    return None


def cascade(
    drafts: Sequence[Answer],
    heavies: Sequence[Answer],
    parameter_ratio: float,
    window: int,
    threshold_bits: float,
) -> CascadePoint:
    """Replay a cascade: the heavyweight answers anew wherever the draft crosses the threshold."""
    escalated = right = 0
    cost = 0.0
    for draft, heavy in zip(drafts, heavies, strict=True):
        stop = tokens_until_escalation(draft, window, threshold_bits)
        cost += parameter_ratio * (len(draft.token_ids) if stop is None else stop)
        if stop is not None:
            escalated += 1
            cost += len(heavy.token_ids)
        right += (draft if stop is None else heavy).is_right
    heavy_cost = sum(len(heavy.token_ids) for heavy in heavies)
    return CascadePoint(
        threshold_bits, escalated / len(drafts), right / len(drafts), cost / heavy_cost
    )


def accepted_proposals(matches: Sequence[bool], proposals_max: int) -> tuple[int, int, int]:
    """Replay greedy speculation over one heavyweight answer.

    matches tells for each of its tokens whether the drafter would have written the same after the
    same context. Returns (tokens accepted, tokens proposed, passes of the heavyweight).
    """
    accepted = proposed = passes = position = 0
    while position < len(matches):
        proposal = matches[position : position + proposals_max]
        run = next((i for i, match in enumerate(proposal) if not match), len(proposal))
        accepted, proposed, passes = accepted + run, proposed + len(proposal), passes + 1
        position += run + 1
    return accepted, proposed, passes
