"""Whether two wordings ask the same question, as far as words tell. Pure.

A wrong answer from the cache is worse than many drafts. So two texts are the same only if they
become equal word for word, in one order, after what adds nothing to a question was taken away and
what is spelled in several ways was spelled in one. No threshold, no score: any word left over on
either side is a difference. English is taken apart (`english`); in other languages only case and
typography may differ.

Does not know vectors: it is asked about pairs that are near already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal_entropy_drafter.guard import english, words
from shoal_entropy_drafter.guard.language import language_of
from shoal_entropy_drafter.guard.tokens import Token, tokens_of
from shoal_entropy_drafter.question import normalised

LENGTH_MAX = 4000
"""Characters up to which wordings are compared; longer texts are equal or different."""
REASONS = ("number", "quoted", "negation", "unit", "language", "name", "words", "length")
"""What `difference` may say, besides ""."""

_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class _Reading:
    """A text taken apart. is_caseless: no capital in it tells a name from a word."""

    language: str
    tokens: Sequence[Token]
    is_caseless: bool


def difference(one: str, other: str) -> str:
    """Why an answer to `one` must not be given to `other`: one of REASONS, "" where it may.

    Symmetric; "" for equal texts; takes time in proportion to the texts.
    """
    one, other = normalised(one), normalised(other)
    if one == other:
        return ""
    if max(len(one), len(other)) > LENGTH_MAX:
        return "length"
    if any(mark in one or mark in other for mark in _LINE_BREAKS):
        # Lines carry what was pasted: code, verse, tables. Their layout may be the question.
        return "quoted"
    return _compared(_read(one), _read(other))


def _read(text: str) -> _Reading:
    tokens = tokens_of(text)
    language = language_of(tokens)
    is_caseless = not any(token.is_name for token in tokens)
    if language == "en":
        tokens = english.canonical(tokens)
    return _Reading(language, tokens, is_caseless)


def _compared(one: _Reading, other: _Reading) -> str:
    is_caseless = one.is_caseless or other.is_caseless
    if (
        one.language == other.language
        and len(one.tokens) == len(other.tokens)
        and all(_same(a, b, is_caseless) for a, b in zip(one.tokens, other.tokens, strict=True))
    ):
        return ""
    return _reason(one, other)


def _same(one: Token, other: Token, is_caseless: bool) -> bool:
    """Equal words, and capitals that do not make another word of one of them."""
    if one.kind != other.kind or one.text != other.text:
        return False
    if one.is_name == other.is_name:
        return True
    if one.text in words.AMBIGUOUS:
        return False
    return is_caseless or one.is_initial or other.is_initial


def _reason(one: _Reading, other: _Reading) -> str:
    """The most telling difference of two that are different."""

    def differs(chosen: Callable[[Token], bool]) -> bool:
        return Counter(t.text for t in one.tokens if chosen(t)) != Counter(
            t.text for t in other.tokens if chosen(t)
        )

    if differs(_is_number):
        return "number"
    if differs(lambda token: token.kind in ("quoted", "literal")):
        return "quoted"
    if differs(lambda token: token.text in words.NEGATIONS) or _are_opposite(one, other):
        return "negation"
    if differs(lambda token: token.kind == "unit"):
        return "unit"
    if len({one.language, other.language} - {""}) > 1 or differs(
        lambda token: token.text in words.LANGUAGE_NAMES
    ):
        return "language"
    if differs(lambda token: token.is_name):
        return "name"
    return "words"


def _is_number(token: Token) -> bool:
    return token.kind == "number" or (
        token.kind == "literal" and any(letter.isdigit() for letter in token.text)
    )


def _are_opposite(one: _Reading, other: _Reading) -> bool:
    ours = {token.text for token in one.tokens} - {token.text for token in other.tokens}
    theirs = {token.text for token in other.tokens} - {token.text for token in one.tokens}
    return any(
        (a in ours and b in theirs) or (a in theirs and b in ours) for a, b in words.OPPOSITES
    )
