"""How long a step may take before whoever computes it counts as hung."""

from __future__ import annotations

NO_PROGRESS = "no progress within the deadline of a step"

_FLOOR_S = 2.0
_FACTOR = 4.0
_UNMEASURED_S = 30.0
_WEIGHT = 0.2


class ProgressDeadline:
    """The larger of 2 s and 4 x the time predicted from the steps so far; 30 s before any."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._token_s = 0.0

    def observe(self, took_s: float, token_count: int) -> None:
        """A step of so many tokens has taken `took_s`."""
        weight = _WEIGHT if self._step_s else 1.0
        self._step_s += weight * (took_s - self._step_s)
        per_token_s = took_s / token_count
        # The dearest token counts: alone in its step it pays for all that others would share.
        self._token_s = max(per_token_s, self._token_s + weight * (per_token_s - self._token_s))

    def allowed_s(self, token_count: int, depth: int = 1) -> float:
        """For a step of so many tokens with `depth` steps under way."""
        if not self._step_s:
            return _UNMEASURED_S
        return max(_FLOOR_S, _FACTOR * (self._step_s + self._token_s * token_count) * depth)
