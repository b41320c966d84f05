"""Texts as tokens: nothing of a text is dropped here but white space.

What is not plainly a word or a number is a literal and compared to the letter: quoted text, code,
addresses, paths, dates, identifiers. One pass, no pattern that can backtrack over more than a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shoal_entropy_drafter.guard import numbers, words

Kind = Literal["word", "number", "unit", "quoted", "literal", "mark"]

_CLOSERS = {
    '"': '"',
    "`": "`",
    "'": "'",
    "“": "”",
    "”": "”",
    "„": "“”",
    "«": "»",
    "»": "«",
    "‹": "›",
    "‘": "’",
    "「": "」",
}
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_BEFORE = "([{¿¡"
_AFTER = ".,;:!?)]}…"
_SENTENCE_ENDS = ".!?…:"
_PRONOUN = re.compile(r"I(?:'(?:m|ve|ll|d))?")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]{2}")


@dataclass(frozen=True, slots=True)
class Token:
    """text: in the spelling that is compared. is_name: written with a capital that no place in the
    sentence explains. is_initial: a capital here would say nothing."""

    kind: Kind
    text: str
    is_name: bool = False
    is_initial: bool = False


def tokens_of(text: str) -> list[Token]:
    """`text` on one line, apostrophes of one kind."""
    shouted = text.isupper() and len(text.split()) > 1
    found: list[Token] = []
    for is_quoted, part in _parts(text):
        if is_quoted:
            found.append(Token("quoted", part))
            continue
        for chunk in part.split():
            _add_chunk(found, chunk, shouted)
    return found


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Plain and quoted parts in turn. A quotation that is never closed lasts to the end."""
    start = index = 0
    while index < len(text):
        closers = _CLOSERS.get(text[index])
        if closers is None or _is_apostrophe(text, index):
            index += 1
            continue
        yield False, text[start:index]
        stop = _closed(text, index + 1, closers)
        yield True, text[index + 1 : stop]
        start = index = stop + 1
    yield False, text[start:]


def _closed(text: str, start: int, closers: str) -> int:
    for index in range(start, len(text)):
        if text[index] in closers and not (
            text[index] in "'’" and text[index + 1 : index + 2].isalnum()
        ):
            return index
    return len(text)


def _is_apostrophe(text: str, index: int) -> bool:
    return text[index] in "'’‘" and index > 0 and text[index - 1].isalnum()


def _add_chunk(found: list[Token], chunk: str, shouted: bool) -> None:
    """The tokens of a piece without white space: marks around one core."""
    core = chunk.lstrip(_BEFORE)
    found += [Token("mark", mark) for mark in chunk[: len(chunk) - len(core)]]
    bare = core.rstrip(_AFTER)
    if bare:
        _add_core(found, bare, shouted)
    found += [Token("mark", mark) for mark in core[len(bare) :]]


def _add_core(found: list[Token], core: str, shouted: bool) -> None:
    if (number := numbers.written(core)) is not None:
        found.append(Token("number", number[0]))
        if number[1]:
            found.append(Token("unit", number[1]))
        return
    if found and found[-1].kind == "number" and (unit := numbers.unit_of(core)):
        found.append(Token("unit", unit))
        return
    if not any(letter.isalnum() for letter in core):
        found.append(Token("mark", core))
        return
    word = core.replace("’", "'")
    lower = word.lower()
    if _WORD.fullmatch(word) is None or (
        _CAMEL.search(word) and not shouted and lower not in words.BRANDS
    ):
        found.append(Token("literal", core))
        return
    _add_word(found, word, lower, shouted)


def _add_word(found: list[Token], word: str, lower: str, shouted: bool) -> None:
    pieces = lower.split("-")
    if len(pieces) == 2 and numbers.is_spelled(pieces):
        found += [Token("word", piece) for piece in pieces]
        return
    if found and found[-1].is_name and word in numbers.ROMAN:
        found.append(Token("number", numbers.ROMAN[word]))
        return
    is_initial = not found or (found[-1].kind == "mark" and found[-1].text in _SENTENCE_ENDS)
    capital = word != lower and not shouted and _PRONOUN.fullmatch(word) is None
    # One capital at the start is grammar; `PDF` and `YouTube` are names there too.
    is_name = capital and (not is_initial or word[1:] != lower[1:])
    is_function = lower in words.STOP_WORDS["en"] and lower not in words.ARTICLES
    if is_name and is_function and not (word.isupper() and lower in words.AMBIGUOUS):
        is_name = False
    if shouted and lower in words.AMBIGUOUS and not is_function:
        # Whether Windows or windows, nobody can say.
        found.append(Token("literal", word))
        return
    found.append(Token("word", lower, is_name, is_initial and not is_name))
