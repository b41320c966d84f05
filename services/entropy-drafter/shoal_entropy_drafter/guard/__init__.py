"""Whether two wordings ask the same question, as far as words tell. Pure."""

from __future__ import annotations

import re

from shoal_entropy_drafter.question import normalised

_DIGITS = re.compile(r"\d+")


def difference(one: str, other: str) -> str:
    """Why an answer to `one` must not be given to `other`; "" where both ask the same."""
    if normalised(one) == normalised(other):
        return ""
    if _DIGITS.findall(one) != _DIGITS.findall(other):
        return "number"
    return "words"
