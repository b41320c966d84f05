"""How uncertain a drafter was of one token.

Owns: Shannon entropy over the candidates that a source shows, its bounds, and what broken lists are
worth. Does not know: windows, thresholds, where candidates come from. Natural-log probabilities go
in, bits come out.

A source shows only the likeliest k tokens. What it hides moves the true entropy between two bounds:

- a *whole* list (k candidates or more) says that no hidden token is likelier than the last one
  shown: least entropy if few of them hold the hidden mass, most if all of them share it;
- a *short* list (fewer than k) may lack any token, not just the last ones: the hidden mass may be a
  single token. A list that is short because nothing else was possible hides no mass.

What cannot be read is `unknown`, and so is what contradicts itself: not a number, a probability or
a sum above 1 by more than rounding, hidden mass that no vocabulary could hold, hidden mass in a
short list that may be likelier than everything shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor, isnan, log, log2
from operator import mul
from typing import Literal

Statistic = Literal["mean", "max", "margin"]
Estimate = Literal["renormalised", "lower", "upper"]

VOCABULARY_SIZE_MAX = 1 << 20
"""Stands in for an unknown vocabulary: four times the largest in use today (262,144)."""
MASS_SLACK = 0.01
"""What rounding may add to or take from a sum of 20: half floats and two decimals stay below."""
# What is less likely counts as not shown: sources write -inf or -9999 where they mean "none".
_LOGPROB_MIN = -700.0
_LOGPROB_MAX = log(1 + MASS_SLACK)
_BITS = 1 / log(2)


@dataclass(frozen=True, slots=True)
class Entropy:
    """One token's uncertainty; where `is_known` is false, every field says the most there can be.

    lower, upper: bits; of a known token the true entropy lies between them.
    renormalised: bits over the k candidates alone, scaled to sum 1; at most log2 k.
    margin: probability of the likeliest token less that of the second, in [0, 1].
    """

    lower: float
    upper: float
    renormalised: float
    margin: float
    is_known: bool

    def doubt(self, statistic: Statistic, estimate: Estimate) -> float:
        """What a window compares of this token: bits, with `margin` the share 1 - margin."""
        if statistic == "margin":
            return 1.0 - self.margin
        if estimate == "renormalised":
            return self.renormalised
        return self.lower if estimate == "lower" else self.upper


def unknown(candidate_count: int, vocabulary_size: int = 0) -> Entropy:
    """A token of which nothing is known: as uncertain as a token can be, in every reading."""
    listed, vocabulary = _sizes(candidate_count, vocabulary_size)
    most = log2(vocabulary)
    return Entropy(most, most, log2(listed), 0.0, False)


def doubt_max(
    statistic: Statistic, estimate: Estimate, candidate_count: int, vocabulary_size: int = 0
) -> float:
    """The doubt that no token and no window of tokens can exceed."""
    return unknown(candidate_count, vocabulary_size).doubt(statistic, estimate)


def entropy_of(
    logprobs: Sequence[float], candidate_count: int, vocabulary_size: int = 0
) -> Entropy:
    """The uncertainty that one token's candidates show.

    logprobs: natural logarithms in any order; more than `candidate_count` of them (some sources add
    the chosen token) are cut to the likeliest. candidate_count: how many were asked for, at least
    2. vocabulary_size: tokens of the model, 0 for unknown. Never raises for what a source sent.
    """
    listed, vocabulary = _sizes(candidate_count, vocabulary_size)
    kept = sorted([lp for lp in logprobs if not lp < _LOGPROB_MIN], reverse=True)
    # A sum shows a NaN wherever it stands; the order of a list with one means nothing.
    if not kept or isnan(sum(kept)) or kept[0] > _LOGPROB_MAX:
        return unknown(candidate_count, vocabulary_size)
    del kept[listed:]
    shares = list(map(exp, kept))
    mass = sum(shares)
    hidden = max(0.0, 1.0 - mass)
    is_whole = len(kept) == listed
    capacity = shares[-1] * (vocabulary - listed) if is_whole else shares[0]
    if mass > 1.0 + MASS_SLACK or hidden > capacity + (MASS_SLACK if is_whole else 0.0):
        return unknown(candidate_count, vocabulary_size)
    weighted = sum(map(mul, shares, kept))
    second = shares[1] if len(shares) > 1 else 0.0
    if is_whole:
        renormalised = _bits(weighted, mass)
        hidden, hidden_each_max = min(hidden, capacity), shares[-1]
    else:
        # As if the hidden mass were shared by the candidates that are missing.
        renormalised = _bits(weighted + _even(hidden, listed - len(kept)), mass + hidden)
        second, hidden_each_max = max(second, hidden), hidden
    lower = upper = renormalised
    if hidden > 0.0:
        lower = _bits(weighted + _packed(hidden, hidden_each_max), mass + hidden)
        upper = _bits(weighted + _even(hidden, vocabulary - len(kept)), mass + hidden)
    # Rounding may lift even distributions above what there can be.
    upper = min(upper, log2(vocabulary))
    return Entropy(
        lower=min(lower, upper),
        upper=upper,
        renormalised=min(renormalised, log2(listed)),
        margin=min(1.0, max(0.0, (shares[0] - second) / max(1.0, mass))),
        is_known=True,
    )


def _sizes(candidate_count: int, vocabulary_size: int) -> tuple[int, int]:
    """How many candidates a whole list has, and the tokens there are."""
    assert candidate_count >= 2, "one candidate shows no uncertainty"
    assert vocabulary_size == 0 or vocabulary_size >= 2, "a vocabulary of one has none"
    vocabulary = vocabulary_size or VOCABULARY_SIZE_MAX
    return min(candidate_count, vocabulary), vocabulary


def _bits(weighted: float, mass: float) -> float:
    """Entropy in bits of shares p that sum to `mass`, scaled to 1; weighted: the sum of p ln p."""
    return max(0.0, (log(mass) - weighted / mass) * _BITS)


def _even(mass: float, count: int) -> float:
    """The sum of p ln p of `count` tokens that share `mass` evenly."""
    return mass * log(mass / count) if mass > 0.0 else 0.0


def _packed(mass: float, each_max: float) -> float:
    """The sum of p ln p of the fewest tokens, none above `each_max`, that can hold `mass`."""
    full = floor(mass / each_max)
    rest = mass - full * each_max
    return full * each_max * log(each_max) + _even(max(0.0, rest), 1)
