"""Which language a text is written in, as far as its commonest words show."""

from __future__ import annotations

from collections.abc import Sequence

from shoal_entropy_drafter.guard import words
from shoal_entropy_drafter.guard.tokens import Token


def language_of(tokens: Sequence[Token]) -> str:
    """A code of `words.STOP_WORDS`, or "" where no language has more of its words than the others.

    Letters of another script name no language: their words are compared anyway.
    """
    counts = dict.fromkeys(words.STOP_WORDS, 0)
    for token in tokens:
        if token.kind != "word":
            continue
        # `what's` is as English as `what`.
        text = token.text if token.text in words.LANGUAGES else token.text.partition("'")[0]
        for code in words.LANGUAGES.get(text, ()):
            counts[code] += 1
    best = max(counts, key=lambda code: counts[code])
    others = [count for code, count in counts.items() if code != best]
    return best if counts[best] > max(others) else ""
