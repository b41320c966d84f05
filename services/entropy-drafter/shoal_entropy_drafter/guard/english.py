"""English questions in one form: politeness gone, the question word first, numbers in digits.

Each step takes and gives a list of tokens and moves or drops only what its docstring names. A step
that is in doubt leaves the text as it is: then two wordings count as different, and a draft is
made. Other languages never come here.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal_entropy_drafter.guard import numbers, words
from shoal_entropy_drafter.guard.tokens import Token

_ENDS = (".", "!", "?")
_INDIRECT_ENDS = {"works": "work", "means": "mean", "happens": "happen", "functions": "function"}
_PERSONS = (("i",), ("you",), ("we",))
# A fronted phrase is short; further away a question word belongs to something else.
_FRONT_TOKENS_MAX = 8
# Nobody greets more often, and each costs a pass.
_COURTESIES_MAX = 6


def canonical(tokens: list[Token]) -> list[Token]:
    """The one form of a question or request in English."""
    tokens = _merge_numbers(_expand(tokens))
    tokens, is_asked = _without_politeness(tokens)
    tokens = _without_end(_questions_first(tokens), is_asked)
    if is_asked:
        tokens = _direct(tokens)
    tokens = _opened(tokens)
    return _ordered_journey(_plain_words(tokens))


def _texts(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Words as they are; other tokens as something that no table of words holds."""
    return tuple(token.text if token.kind == "word" else f"<{token.kind}>" for token in tokens)


def _word(text: str, like: Token) -> Token:
    return Token("word", text, like.is_name, like.is_initial)


def _expand(tokens: list[Token]) -> list[Token]:
    """`don't` is `do not`, `what's` is `what is` unless `has` could be meant."""
    out: list[Token] = []
    for index, token in enumerate(tokens):
        if token.kind != "word" or token.is_name:
            out.append(token)
        elif parts := words.CONTRACTIONS.get(token.text):
            out += [_word(parts[0], token), *(Token("word", part) for part in parts[1:])]
        elif (bare := words.COPULA_CONTRACTIONS.get(token.text)) and not _may_be_has(
            tokens[index + 1 : index + 2]
        ):
            out += [_word(bare, token), Token("word", "is")]
        elif token.text == "i'd" and _texts(tokens[index + 1 : index + 2])[:1] in (
            ("like",),
            ("love",),
        ):
            out += [_word("i", token), Token("word", "would")]
        else:
            out.append(token)
    return out


def _may_be_has(following: Sequence[Token]) -> bool:
    if not following or following[0].kind != "word":
        return False
    text = following[0].text
    return text in words.PARTICIPLES or text.endswith("ed")


def _merge_numbers(tokens: list[Token]) -> list[Token]:
    """Number words as digits; a lone `one` stays, it may stand for a thing."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        stop = index
        while stop < len(tokens) and _is_number_word(tokens[stop]):
            stop += 1
        run = [token.text for token in tokens[index:stop]]
        if run and run != ["one"]:
            out += [Token("number", value) for value in numbers.spelled(run)]
            if stop < len(tokens) and (unit := _unit_after(tokens[stop])):
                out.append(Token("unit", unit))
                stop += 1
            index = stop
            continue
        token = tokens[index]
        ordinal = numbers.ORDINALS.get(token.text) if token.kind == "word" else None
        out.append(Token("number", ordinal) if ordinal and not token.is_name else token)
        index += 1
    return out


def _is_number_word(token: Token) -> bool:
    return token.kind == "word" and not token.is_name and numbers.is_spelled([token.text])


def _unit_after(token: Token) -> str:
    return numbers.unit_of(token.text) if token.kind == "word" and not token.is_name else ""


def _without_politeness(tokens: list[Token]) -> tuple[list[Token], bool]:
    """Greetings, thanks, `please`, `could you tell me` before a question, `could you` before a
    request. Also whether what was taken away says that something is asked."""
    is_wording = any(token.kind == "word" and token.text in words.WORDING for token in tokens)
    tokens = _without_closing(tokens, is_wording)
    is_asked = False
    for _ in range(_COURTESIES_MAX):
        count = _courtesy(tokens, is_wording)
        if not count:
            count = _lead(tokens) or _request(tokens, is_wording)
            is_asked |= count > 0
        if not count:
            break
        tokens = tokens[count:]
    return tokens, is_asked


def _courtesy(tokens: list[Token], is_wording: bool) -> int:
    """Tokens of a greeting or another beginning that asks nothing, with the mark behind it. Where
    wording is the matter, `Hello, what does it mean?` keeps its hello."""
    texts = _texts(tokens)
    for count in range(min(len(texts) - 1, words.COURTESY_WORDS_MAX), 0, -1):
        phrase, following = texts[:count], tokens[count]
        mark = following.text if following.kind == "mark" else ""
        if phrase in words.OPENINGS and mark in (".", "!") and len(texts) > count + 1:
            return count + 1
        is_greeting = phrase in words.GREETINGS
        if is_wording or not (is_greeting or phrase in words.INTERJECTIONS):
            continue
        if texts[count] in words.ASKING:
            return count
        marks = (",", "!", ".") if is_greeting else (",",)
        if mark in marks and len(texts) > count + 1:
            return count + 1
    return 0


def _lead(tokens: list[Token]) -> int:
    """Tokens of `could you tell me` and its like before a question, a `please` among them."""
    texts = _texts(tokens)
    for count in range(min(len(texts) - 1, words.LEAD_WORDS_MAX + 1), 0, -1):
        phrase = tuple(text for text in texts[:count] if text != "please") or ("please",)
        is_knowing = phrase in words.KNOWING
        if not (is_knowing or phrase in words.LEADS) or any(t.is_name for t in tokens[:count]):
            continue
        rest = texts[count:]
        if is_knowing and rest[1:2] in _PERSONS and rest[1:3] != ("i", "can"):
            return 0
        if rest[0] in words.QUESTION_WORDS:
            return count
        if tokens[count].text in (",", ":") and rest[1:] and rest[1] in words.ASKING:
            return count + 1
    return 0


def _request(tokens: list[Token], is_wording: bool) -> int:
    """Tokens of `could you` before what is wanted, and of `please` before anything."""
    texts = _texts(tokens)
    modal = 2 if texts[:2] in (("can", "you"), ("could", "you")) else 0
    if texts[:2] in (("would", "you"), ("will", "you")) and texts[2:3] == ("please",):
        modal = 2
    polite = texts[modal : modal + 1] in (("please",), ("kindly",))
    count = modal + polite
    wanted = texts[count] if count < len(texts) else ""
    if not wanted or tokens[count].kind != "word":
        return 0
    if polite and (wanted in words.IMPERATIVES or not is_wording):
        return count
    return count if wanted in words.REQUESTED else 0


def _without_closing(tokens: list[Token], is_wording: bool) -> list[Token]:
    """Without thanks at the end; what they were joined to keeps its marks."""
    for _ in range(_COURTESIES_MAX):
        stop = _end(tokens)
        count = _closing(tokens[:stop], is_wording)
        if not count:
            break
        start = stop - count
        is_joined = tokens[start - 1].text == ","
        tokens = [*tokens[: start - 1], *tokens[stop:]] if is_joined else tokens[:start]
    return tokens


def _closing(tokens: list[Token], is_wording: bool) -> int:
    """Words of thanks at the end of `tokens`, behind a mark."""
    for count in range(min(len(tokens) - 2, words.CLOSING_WORDS_MAX), 0, -1):
        previous = tokens[-count - 1]
        phrase = _texts(tokens[-count:])
        marks = _ENDS if is_wording else (",", *_ENDS)
        if phrase in words.CLOSINGS and previous.kind == "mark" and previous.text in marks:
            return count
    return 0


def _end(tokens: Sequence[Token]) -> int:
    """Where the marks at the end begin."""
    stop = len(tokens)
    while stop and tokens[stop - 1].kind == "mark" and tokens[stop - 1].text in _ENDS:
        stop -= 1
    return stop


def _questions_first(tokens: list[Token]) -> list[Token]:
    """`In Paris, what ...` and `When I die, what ...` with the phrase behind the question."""
    texts = _texts(tokens)
    if (
        texts[0] not in words.FRONTING
        or tokens[0].is_name
        or texts[1:2] == ()
        or texts[1] in words.ASKING
    ):
        return tokens
    stop = _end(tokens)
    for index in range(2, min(stop, _FRONT_TOKENS_MAX)):
        if tokens[index].kind != "mark":
            continue
        rest = tokens[index + 1 : stop]
        is_front = tokens[index].text == "," and rest and _texts(rest)[0] in words.ASKING
        if is_front and not any(token.kind == "mark" for token in rest):
            return [*rest, *tokens[:index], *tokens[stop:]]
        return tokens
    return tokens


def _without_end(tokens: list[Token], is_asked: bool) -> list[Token]:
    """Without the marks at the end, where the words before say that it is a question or a request.
    A statement keeps them: `It rains?` is not `It rains.`"""
    if not is_asked and _texts(tokens[:1])[0] not in words.TOLD:
        return tokens
    return tokens[: max(_end(tokens), 1)]


def _direct(tokens: list[Token]) -> list[Token]:
    """`what the capital is`, left over from `tell me what the capital is`, as `what is the
    capital`. Only with one verb to move and nothing it could belong to otherwise."""
    texts = _texts(tokens)
    if len(texts) < 3 or texts[0] not in words.QUESTION_WORDS or "<mark>" in texts:
        return tokens
    rest = texts[1:]
    if rest[0] not in words.SUBJECT_STARTS and not tokens[1].is_name:
        return tokens
    places = [index for index, text in enumerate(texts) if text in words.AUXILIARIES]
    if len(places) != 1 or words.RELATIVE.intersection(rest):
        return tokens
    verb = tokens[places[0]]
    if verb.text not in words.COPULAS | {"can", "should", "must", "will"}:
        return tokens
    return [tokens[0], verb, *tokens[1 : places[0]], *tokens[places[0] + 1 :]]


def _opened(tokens: list[Token]) -> list[Token]:
    """All ways to ask for a way as one; `does` behind a question word dropped, and the ending that
    it stands for."""
    texts = _texts(tokens)
    for count in range(min(len(texts), words.OPENER_WORDS_MAX), 1, -1):
        opener = words.OPENERS.get(texts[:count])
        if opener and texts[count : count + 1] and texts[count] not in words.STATES:
            rest = tokens[count:]
            return [
                Token("word", opener),
                *(_one_article(rest) if opener == words.HOW_TO else rest),
            ]
    if texts[0] in ("how", "what", "why", "where", "when") and len(texts) > 2:
        if texts[1] in ("do", "does"):
            return [tokens[0], *tokens[2:]]
        base = _INDIRECT_ENDS.get(texts[-1])
        if base and not words.AUXILIARIES.intersection(texts[1:-1]):
            return [*tokens[:-1], Token("word", base)]
    return tokens


def _one_article(tokens: list[Token]) -> list[Token]:
    """In instructions `a file` is `the file`; `a few` is not `the few`."""
    out: list[Token] = []
    for index, token in enumerate(tokens):
        is_article = token.kind == "word" and token.text in words.ARTICLES and not token.is_name
        following = _texts(tokens[index + 1 : index + 2])
        is_plain = is_article and following != () and following[0] not in words.COUNTED
        out.append(Token("word", "the") if is_plain else token)
    return out


def _plain_words(tokens: list[Token]) -> list[Token]:
    """One word for those that mean the same; `an` as `a`; no comma before `and` and `or`."""
    texts = _texts(tokens)
    has_terms = not words.TERMS.isdisjoint(texts)
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        token, following = tokens[index], texts[index + 1] if index + 1 < len(texts) else ""
        is_done = index > 0 and texts[index - 1] in words.DOERS
        index += 1
        if token.kind == "mark" and token.text == "," and following in ("and", "or"):
            continue
        if token.kind != "word" or token.is_name:
            out.append(token)
        elif token.text == "an":
            out.append(_word("a", token))
        elif has_terms:
            out.append(token)
        elif is_done and (pair := words.VERB_PAIRS.get((token.text, following))):
            out.append(Token("word", pair))
            index += 1
        else:
            text = words.SYNONYMS.get(token.text, token.text)
            out.append(_word(words.VERBS.get(text, text) if is_done else text, token))
    return out


def _ordered_journey(tokens: list[Token]) -> list[Token]:
    """`to B from A` at the end as `from A to B`, where A and B are words without more to them."""
    texts = _texts(tokens)
    if texts.count("to") != 1 or texts.count("from") != 1:
        return tokens
    to, start = texts.index("to"), texts.index("from")
    inner = (*texts[to + 1 : start], *texts[start + 1 :])
    if (
        to > start
        or start == to + 1
        or start == len(texts) - 1
        or "<mark>" in inner
        or words.LOOSE.intersection(inner)
    ):
        return tokens
    return [*tokens[:to], *tokens[start:], *tokens[to:start]]
