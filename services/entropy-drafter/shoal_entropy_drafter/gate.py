"""When a draft is doubted, and when it is given up.

Owns: the window over the tokens' doubt and the verdicts. Does not know: where tokens come from,
what becomes of them, time. The same tokens under the same rules always get the same verdicts.

The statistic covers the last `window_size` tokens, or all of them while they are fewer.

1. ESCALATE, for good: a full window's statistic is above the threshold; or that of the first
   `early_exit_count` tokens, where these come before the first full window; or that of the whole
   draft, where it ends before the first full window.
2. SPECULATE: the statistic is above the soft threshold, from the first token on.
3. RECOVER, after SPECULATE: the statistic has been at or below the soft threshold for half a window
   of tokens in a row, and covers as many tokens as the first comparison with the threshold does.
   The half window is against flapping: a heavyweight that was cancelled must read its prompt again,
   while the drafter's next tokens are cheap. One that hovers starts the heavyweight at most once in
   half a window and a token.
4. ACCEPT or ESCALATE at the end. A draft of no tokens is no answer: it is escalated.

A token without candidates counts as uncertain as a token can be. So do tokens that the source
counts and never showed, as if they stood at the end; one such token is the end of turn, which
sources count and do not show. Where more are missing nobody can tell which one that was: all count.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Literal

from shoal_entropy_drafter.entropy import Entropy, Estimate, Statistic, unknown

Reason = Literal["", "early_exit", "window", "end", "unknown", "empty", "soft", "calm", "settled"]
"""Why a verdict: of ESCALATE the judgement that failed ("unknown" where it held tokens without
candidates, "empty" where there were no tokens), of SPECULATE "soft", of RECOVER "calm", of ACCEPT
"settled", of CONTINUE nothing."""

# Doubts are summed as integers of 2^-32 bits: exact, so nothing drifts however long the draft.
_TICKS = 1 << 32
_THRESHOLD_MAX = 1e6


class Verdict(enum.Enum):
    """What is to be done after a token."""

    CONTINUE = "continue"
    SPECULATE = "speculate"
    RECOVER = "recover"
    ESCALATE = "escalate"
    ACCEPT = "accept"


@dataclass(frozen=True)
class GateRules:
    """The gate's numbers; they belong to one model and one number of candidates.

    threshold, in bits (statistic "margin": a share); what equals it stands. `math.inf` never
    escalates a draft that has tokens. vocabulary_size: of the model, 0 for unknown.
    """

    threshold: float
    window_size: int
    early_exit_count: int
    candidate_count: int
    soft_threshold_mult: float = 0.8
    statistic: Statistic = "mean"
    estimate: Estimate = "renormalised"
    is_speculative: bool = True
    vocabulary_size: int = 0

    def __post_init__(self) -> None:
        assert self.threshold > 0, "a threshold of nothing escalates everything"
        assert self.window_size >= 1
        assert self.early_exit_count >= 1
        assert self.candidate_count >= 2, "one candidate shows no uncertainty"
        assert 0 < self.soft_threshold_mult <= 1

    @property
    def soft_threshold(self) -> float:
        """Above it the heavyweight starts beside the draft."""
        return self.soft_threshold_mult * self.threshold


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict after one token, or at the end."""

    verdict: Verdict
    reason: Reason
    statistic: float
    """Over the last window, in bits (statistic "margin": a share)."""
    settled_count: int
    """Tokens from the first one on that no window can put in doubt any more."""


class Gate:
    """One draft's judge. ESCALATE is final: whatever comes later changes nothing.

    Invariants: `settled_count` never falls, and counts no token of a window that failed.
    """

    def __init__(self, rules: GateRules) -> None:
        self._rules = rules
        self._threshold = _threshold_ticks(rules.threshold)
        self._soft_threshold = _threshold_ticks(rules.soft_threshold)
        self._window = _Window(rules.window_size, is_max=rules.statistic == "max")
        # Tokens that the first comparison with the threshold covers.
        self._judged_from = min(rules.window_size, rules.early_exit_count)
        self._calm_wanted = (rules.window_size + 1) // 2
        self._calm_count = 0
        self._is_speculating = False
        self._is_early_exit_passed = False
        self._token_count = 0
        self._settled_count = 0
        self._highest = 0.0
        self._final: Judgement | None = None

    @property
    def token_count(self) -> int:
        """Tokens fed, up to the one that failed."""
        return self._token_count

    @property
    def settled_count(self) -> int:
        """Tokens from the first one on that no window can put in doubt any more.

        All but the last window less one; none before the first `early_exit_count` tokens passed;
        all of an accepted draft.
        """
        return self._settled_count

    @property
    def is_early_exit_passed(self) -> bool:
        """Whether the first `early_exit_count` tokens, or a shorter draft that ended, passed."""
        return self._is_early_exit_passed

    @property
    def statistic(self) -> float:
        """Over the last window; 0 before the first token."""
        return self._window.value

    @property
    def highest(self) -> float:
        """The largest statistic that was compared with the threshold; 0 where none was.

        The same tokens escalate under exactly those thresholds that are lower (once all were fed
        under one that never escalates, and the draft was finished).
        """
        return self._highest

    def feed(self, entropy: Entropy) -> Judgement:
        """The verdict after the draft's next token. Not after ACCEPT."""
        if self._final is not None:
            assert self._final.verdict is Verdict.ESCALATE, "the draft has ended"
            return self._final
        self._token_count += 1
        reason = self._push(entropy)
        if reason:
            return self._end(Verdict.ESCALATE, reason)
        if self._token_count >= self._rules.early_exit_count:
            self._is_early_exit_passed = True
            self._settled_count = max(0, self._token_count - self._rules.window_size + 1)
        return self._soft_judgement()

    def finish(self, completion_token_count: int | None) -> Judgement:
        """The last verdict, ACCEPT or ESCALATE; asked again, the same.

        completion_token_count: tokens that the source says it wrote, None where it does not say.
        """
        if self._final is not None:
            return self._final
        if not self._token_count:
            return self._end(Verdict.ESCALATE, "empty")
        missing = (completion_token_count or 0) - self._token_count
        # Beyond a window of them nothing changes, whatever the source claims.
        for _ in range(min(missing, self._rules.window_size) if missing > 1 else 0):
            if reason := self._push(self._unknown()):
                return self._end(Verdict.ESCALATE, reason)
        # A full window has passed already, and passes again.
        if reason := self._judge("end"):
            return self._end(Verdict.ESCALATE, reason)
        self._is_early_exit_passed = True
        self._settled_count = self._token_count
        return self._end(Verdict.ACCEPT, "settled")

    def _unknown(self) -> Entropy:
        return unknown(self._rules.candidate_count, self._rules.vocabulary_size)

    def _push(self, entropy: Entropy) -> Reason:
        """Take one token in; why the draft fails with it, or nothing."""
        rules = self._rules
        doubt = entropy.doubt(rules.statistic, rules.estimate)
        self._window.push(round(doubt * _TICKS), entropy.is_known)
        if self._window.seen_count == rules.early_exit_count <= rules.window_size:
            return self._judge("early_exit")
        return self._judge("window") if self._window.is_full else ""

    def _judge(self, reason: Reason) -> Reason:
        """Compare the statistic with the threshold; why the draft fails, or nothing."""
        self._highest = max(self._highest, self._window.value)
        if not self._window.is_above(self._threshold):
            return ""
        return "unknown" if self._window.unknown_count else reason

    def _soft_judgement(self) -> Judgement:
        """Whether the heavyweight should run beside the draft from here on."""
        if not self._rules.is_speculative:
            return self._judgement(Verdict.CONTINUE, "")
        if self._window.is_above(self._soft_threshold):
            self._calm_count = 0
            if self._is_speculating:
                return self._judgement(Verdict.CONTINUE, "")
            self._is_speculating = True
            return self._judgement(Verdict.SPECULATE, "soft")
        self._calm_count += 1
        is_calm = self._calm_count >= self._calm_wanted and self._token_count >= self._judged_from
        if not (self._is_speculating and is_calm):
            return self._judgement(Verdict.CONTINUE, "")
        self._is_speculating = False
        return self._judgement(Verdict.RECOVER, "calm")

    def _end(self, verdict: Verdict, reason: Reason) -> Judgement:
        self._final = self._judgement(verdict, reason)
        return self._final

    def _judgement(self, verdict: Verdict, reason: Reason) -> Judgement:
        return Judgement(verdict, reason, self._window.value, self._settled_count)


class _Window:
    """The last tokens' doubts, in ticks; each push costs the same however wide the window is."""

    def __init__(self, size: int, is_max: bool) -> None:
        self._size = size
        self._is_max = is_max
        self._held: deque[tuple[int, bool]] = deque()
        self._sum = 0
        self.unknown_count = 0
        self.seen_count = 0
        # (index, ticks) of those that are larger than everything behind them: the first is largest.
        self._peaks: deque[tuple[int, int]] = deque()

    @property
    def is_full(self) -> bool:
        return len(self._held) == self._size

    @property
    def value(self) -> float:
        top, bottom = self._fraction()
        return top / (bottom * _TICKS)

    def push(self, ticks: int, is_known: bool) -> None:
        if self.is_full:
            gone, was_known = self._held.popleft()
            self._sum -= gone
            self.unknown_count -= not was_known
        self._held.append((ticks, is_known))
        self._sum += ticks
        self.unknown_count += not is_known
        if self._is_max:
            self._push_peak(ticks)
        self.seen_count += 1

    def is_above(self, threshold: int) -> bool:
        """Whether the statistic exceeds this many ticks."""
        top, bottom = self._fraction()
        return top > threshold * bottom

    def _push_peak(self, ticks: int) -> None:
        while self._peaks and self._peaks[-1][1] <= ticks:
            self._peaks.pop()
        self._peaks.append((self.seen_count, ticks))
        if self._peaks[0][0] <= self.seen_count - self._size:
            self._peaks.popleft()

    def _fraction(self) -> tuple[int, int]:
        """The statistic in ticks, as numerator and denominator."""
        if self._is_max:
            return (self._peaks[0][1] if self._peaks else 0), 1
        return self._sum, max(1, len(self._held))


def _threshold_ticks(threshold: float) -> int:
    """Rounded up, so that a statistic equal to the threshold is not above it."""
    return ceil(min(threshold, _THRESHOLD_MAX) * _TICKS)
