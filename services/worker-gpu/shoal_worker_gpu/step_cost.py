"""What a step costs, learned from steps that were measured.

Answers one question: how many prompt tokens fit into a step without keeping those who wait for
their next token waiting for much longer. A model of two parts: a time for n decode rows, and a
time for each prompt token beside them.
"""

from __future__ import annotations

import math
import sys

_WEIGHT = 0.25
# One slow step (another process took the core) must not move an estimate by more than this.
_OUTLIER_FACTOR = 3.0


class StepCost:
    """Moving averages of one pipeline's slowest stage, in microseconds."""

    def __init__(self) -> None:
        self._decode_us: dict[int, float] = {}
        self._token_us = 0.0

    def observe(self, decode_rows: int, prompt_tokens: int, compute_us: float) -> None:
        """A step of so many decode rows and prompt tokens has taken `compute_us`."""
        if prompt_tokens == 0:
            known = self._decode_us.get(decode_rows, 0.0)
            self._decode_us[decode_rows] = _moved(known, compute_us)
            return
        beside_us = compute_us - (self._decode_us_of(decode_rows) if decode_rows else 0.0)
        self._token_us = _moved(self._token_us, max(0.0, beside_us) / prompt_tokens)

    def prompt_tokens_within(self, decode_rows: int, factor: float, waiting: int = 1) -> int:
        """Prompt tokens beside `decode_rows` in a step of `factor` times their own time.

        Where more prompts are `waiting` for a first token than rows for their next one, the time
        beside decoding grows with them. At least 1, so that prompts go on; one for each decode row
        until both are measured.
        """
        if math.isinf(factor):
            return sys.maxsize
        decode_us = self._decode_us_of(decode_rows)
        if not decode_us or not self._token_us:
            return max(1, decode_rows)
        crowd = max(1.0, waiting / max(1, decode_rows))
        return max(1, int((factor - 1) * crowd * decode_us / self._token_us))

    def _decode_us_of(self, rows: int) -> float:
        """Of the measured number of rows nearest to `rows`, 0 when nothing is measured."""
        if not self._decode_us:
            return 0.0
        nearest = min(self._decode_us, key=lambda measured: abs(measured - rows))
        return self._decode_us[nearest]


def _moved(average: float, measured: float) -> float:
    if not average:
        return measured
    return average + _WEIGHT * (min(measured, _OUTLIER_FACTOR * average) - average)
