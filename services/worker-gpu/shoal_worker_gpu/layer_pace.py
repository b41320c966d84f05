"""How fast this engine's layers are, for those who plan: moving averages over its steps."""

from __future__ import annotations

_WEIGHT = 0.1
# Steps with fewer prompt tokens mostly measure what a step costs whatever is in it.
_PROMPT_TOKENS_MIN = 8


class LayerPace:
    """Of one layer. decode_us: for a step of decode rows. prefill_ns: for a prompt token. 0 until
    measured."""

    def __init__(self) -> None:
        self.decode_us = 0.0
        self.prefill_ns = 0.0

    def observe(self, decode_rows: int, prompt_tokens: int, layer_us: float) -> None:
        """A step of so many decode rows and prompt tokens took `layer_us` per layer."""
        if not prompt_tokens:
            self.decode_us = _moved(self.decode_us, layer_us)
        elif prompt_tokens >= _PROMPT_TOKENS_MIN:
            beside_us = self.decode_us if decode_rows else 0.0
            measured_ns = max(0.0, layer_us - beside_us) * 1000 / prompt_tokens
            self.prefill_ns = _moved(self.prefill_ns, measured_ns)


def _moved(average: float, measured: float) -> float:
    return average + _WEIGHT * (measured - average) if average else measured
