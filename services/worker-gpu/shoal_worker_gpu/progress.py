"""How long a step may take before whoever computes it counts as hung."""

from __future__ import annotations

NO_PROGRESS = "no progress within the deadline of a step"
HANGS = "STEP_HANGS"
STEP_HANGS = f"{HANGS}: a step takes far longer than it should"
"""Detail of an engine's status for as long as that is so: it may become ready again."""

_FLOOR_S = 2.0
_FACTOR = 4.0
_UNMEASURED_S = 30.0
_WEIGHT = 0.2
# A prompt token costs less than a step of its own; so much less on all machines measured.
_PROMPT_TOKEN_SHARE = 1 / 8


class ProgressDeadline:
    """The larger of 2 s and 4 x the time predicted from the steps so far.

    predicted_s: what a decode step is expected to take, for as long as none was observed; 0 where
    nobody has said. 30 s then.
    """

    def __init__(self, predicted_s: float = 0.0) -> None:
        self._has_observed = False
        self._step_s = predicted_s
        self._token_s = predicted_s * _PROMPT_TOKEN_SHARE

    def observe(self, took_s: float, token_count: int) -> None:
        """A step of so many tokens has taken `took_s`."""
        per_token_s = took_s / token_count
        if not self._has_observed:
            self._has_observed = True
            self._step_s, self._token_s = took_s, per_token_s
            return
        self._step_s += _WEIGHT * (took_s - self._step_s)
        # The dearest token counts: alone in its step it pays for all that others would share.
        self._token_s = max(per_token_s, self._token_s + _WEIGHT * (per_token_s - self._token_s))

    def allowed_s(self, token_count: int, depth: int = 1) -> float:
        """For a step of so many tokens with `depth` steps under way."""
        if not self._step_s:
            return _UNMEASURED_S
        return max(_FLOOR_S, _FACTOR * (self._step_s + self._token_s * token_count) * depth)
