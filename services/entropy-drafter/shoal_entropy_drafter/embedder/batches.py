"""Which texts are computed together, as a pure function of their lengths."""

from __future__ import annotations

from collections.abc import Sequence

# Fixed cost of one run of MiniLM on one core, in tokens: 2 ms beside 0.27 ms a token.
RUN_TOKENS = 8


def batched(lengths: Sequence[int], tokens_max: int) -> list[list[int]]:
    """Indices of `lengths`, shortest texts first, in batches.

    Texts of a batch are padded to its longest. A text joins the batch before it where that costs
    less padding than a run of its own, and where the padded batch stays within `tokens_max`; so no
    batch but a single text exceeds that.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        length = lengths[index]
        before = len(batches[-1]) if batches else 0
        padding = before * (length - longest)
        if before and padding <= RUN_TOKENS and (before + 1) * length <= tokens_max:
            batches[-1].append(index)
        else:
            batches.append([index])
        longest = length
    return batches
