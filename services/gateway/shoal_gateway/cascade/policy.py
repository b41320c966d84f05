"""Which tokens of a draft may leave. Pure.

No token is ever taken back, so one leaves only where nothing that is still to come can change the
mind. A delta comes before its verdict: what the last delta brought has not been judged yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a draft has come.

    token_count: tokens that came, judged_count of them with their verdicts. settled_count: from the
    first on, in doubt no more. whole_at: tokens that make a whole reply, where its text has ended
    before its tokens did (a stop string); None while it has not. end_at: where the token stands
    that ends the turn. released: that have left. is_speculating: the heavyweight runs beside.
    """

    token_count: int
    judged_count: int = 0
    settled_count: int = 0
    whole_at: int | None = None
    end_at: int | None = None
    released: int = 0
    is_speculating: bool = False
    is_accepted: bool = False


Policy = Callable[[Progress], int]
"""How many tokens from the first on may have left by now; never fewer than have."""


def hold_all(progress: Progress) -> int:
    """The whole draft or nothing."""
    if progress.is_accepted:
        return progress.token_count
    if progress.is_speculating or progress.whole_at is None:
        return progress.released
    is_settled = progress.settled_count >= progress.whole_at
    return progress.whole_at if is_settled else progress.released


def settled_only(progress: Progress) -> int:
    """What is settled, so that another model can go on behind it.

    Nothing leaves while the heavyweight runs: it began where the tokens had ended that had left.
    The end of the turn waits for the last verdict, as nobody goes on behind it.
    """
    if progress.is_accepted:
        return progress.token_count
    if progress.is_speculating:
        return progress.released
    settled = progress.settled_count
    if progress.end_at is not None:
        settled = min(settled, progress.end_at)
    return max(progress.released, settled)


@dataclass(frozen=True)
class HoldFirst:
    """Nothing before the first `early_exit_count` tokens passed; then all, whatever comes."""

    early_exit_count: int

    def __call__(self, progress: Progress) -> int:
        has_passed = progress.judged_count >= self.early_exit_count and not progress.is_speculating
        if progress.released or has_passed:
            return progress.token_count
        return hold_all(progress)


def stands_once_released(policy: Policy) -> bool:
    """Under this policy a draft whose first token has left is the answer, whatever the verdicts."""
    return isinstance(policy, HoldFirst)
