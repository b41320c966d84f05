"""What can go wrong in the cascade.

Unavailable
├── DraftBroken          the drafter's events cannot be read; the heavyweight answers
├── DraftLost            an upstream's draft ended after some of it had left
└── HeavyweightMissing   nobody serves the model that is to take over
DeadlineExceeded
├── DrafterSilent        no event of a draft for too long; the heavyweight answers
└── HeavyweightSilent    no event of the heavyweight for too long
"""

from __future__ import annotations

from shoal_common.errors import DeadlineExceeded, Unavailable


class DraftBroken(Unavailable):
    """The drafter says what no drafter may say."""

    reason = "DRAFT_BROKEN"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the draft cannot be read: {problem}")


class DraftLost(Unavailable):
    """What has left cannot be taken back, and nobody can go on behind it."""

    reason = "DRAFT_LOST"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the answer was lost on its way ({problem}); try again")


class HeavyweightMissing(Unavailable):
    """The cascade's larger model is not there: its operator must act."""

    reason = "HEAVYWEIGHT_MISSING"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"the cascade needs model '{model}', which nobody serves now; try again, or tell the "
            "fleet's operator (heavyweight_model)"
        )


class DrafterSilent(DeadlineExceeded):
    """Longer than the drafter lets a whole draft take."""

    reason = "DRAFTER_SILENT"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the entropy-drafter sent nothing for {timeout_s:g} s")


class HeavyweightSilent(DeadlineExceeded):
    """Longer than `heavyweight_timeout_s`."""

    reason = "HEAVYWEIGHT_SILENT"

    def __init__(self, model: str, timeout_s: float) -> None:
        super().__init__(f"model '{model}' sent nothing for {timeout_s:g} s; try again")
