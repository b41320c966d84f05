"""Calls out of a model's text, whatever pieces it comes in."""

from __future__ import annotations

import random

import pytest

from shoal_gateway.collect import Collected
from shoal_gateway.reply import merged
from shoal_gateway.task import Content, TextDelta, TokenLogprob, ToolCallDelta, ToolCallStarted
from shoal_gateway.tools.formats import HERMES, JSON, LLAMA3, MISTRAL, ToolFormat
from shoal_gateway.tools.parser import CallParser

NAMES = frozenset({"weather", "clock", "a.b-c"})
FORMATS = {"hermes": HERMES, "llama3": LLAMA3, "mistral": MISTRAL, "json": JSON}

# (format, text, what is said, the calls as name and arguments)
Case = tuple[str, str, str, list[tuple[str, str]]]
ONE = ("weather", '{"city": "Paris"}')
CALLS: list[Case] = [
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "",
     [ONE]),
    ("hermes", 'Let me see.\n<tool_call>{"name":"clock","arguments":{}}</tool_call>\n',
     "Let me see.\n", [("clock", "{}")]),
    ("hermes", '<tool_call>{"arguments": {"a": [1, {"b": "}"}]}, "name": "weather"}</tool_call>',
     "", [("weather", '{"a": [1, {"b": "}"}]}')]),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}}</tool_call>\n'
     '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>',
     "", [("clock", "{}"), ONE]),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}}</tool_call> and '
     '<tool_call>{"name": "clock", "arguments": {}}</tool_call> done',
     " and  done", [("clock", "{}"), ("clock", "{}")]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}', "", [ONE]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}</tool_call>', "",
     [ONE]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}}\n</tool_call>', "",
     [ONE]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>\\"{"}}'
     "</tool_call>", "", [("weather", '{"city": "</tool_call>\\"{"}')]),
    ("hermes", '<tool_call>{"name": "clock"}</tool_call>', "", [("clock", "{}")]),
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', "", [ONE]),
    ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}', "", [ONE]),
    ("llama3", '{"type": "function", "name": "clock", "parameters": {}}; '
     '{"name": "weather", "parameters": {"city": "Paris"}}', "", [("clock", "{}"), ONE]),
    ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}]', "", [ONE]),
    ("mistral", '[TOOL_CALLS] [{"name": "clock", "arguments": {}, "id": "abcdefghi"}, '
     '{"name": "weather", "arguments": {"city": "Paris"}}]', "", [("clock", "{}"), ONE]),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', "", [ONE]),
    ("mistral", '[TOOL_CALLS]a.b-c{"x": 1}[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]'
     '{"city": "Paris"}', "", [("a.b-c", '{"x": 1}'), ONE]),
    ("mistral", 'Sure. [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}] Wait.',
     "Sure.  Wait.", [ONE]),
    ("json", ' {"name": "weather", "arguments": {"city": "Paris"}}\n', "", [ONE]),
    ("json", '[{"name": "clock", "parameters": {}}, {"name": "clock", "arguments": {}}]', "",
     [("clock", "{}"), ("clock", "{}")]),
    ("json", '{"name": "we\\u0061ther", "arguments": {"city": "Paris"}}', "", [ONE]),
]  # fmt: skip

# Returned as they are.
TEXTS: list[tuple[str, str]] = [
    ("hermes", "Hello <tool and <tool_call"),
    ("hermes", "  \n"),
    ("hermes", '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "weather", "arguments": "x"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {city: 1}}</tool_call>'),
    ("hermes", '<tool_call>{"function": "weather"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "weather", "argu'),
    ("hermes", '<tool_call>{"arguments": {"city": "Paris"}, "na'),
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call></tool_call>"),
    ("hermes", "<tool_call>weather(city='Paris')</tool_call>"),
    ("hermes", '<tool_call>{"name": "' + "n" * 400),
    ("llama3", '{"answer": 42}'),
    ("llama3", '{"name": "Ada", "parameters": {}}'),
    ("llama3", 'Use {"name": "weather", "parameters": {}}'),
    ("llama3", '<|python_tag|>print("hi")'),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS] I cannot {do} that"),
    ("mistral", "[TOOL_CALLS]" + "x" * 400),
    ("mistral", "[1, 2]"),
    ("json", "[1, 2, 3]"),
    ("json", '{"name": "weather"'),
    ("json", '{"name": "weather", "name": "weather"}'),
    ("json", "{}"),
    ("json", "[[]]"),
]

# Broken after the call was certain: it stays with what was written.
BROKEN: list[Case] = [
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Par', "",
     [("weather", '{"city": "Par')]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": oops}}</tool_call>', "",
     [("weather", '{"city": oops}')]),
    ("mistral", '[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": "no", "arguments": {}}]',
     ', {"name": "no", "arguments": {}}]', [("clock", "{}")]),
    ("json", '{"name": "clock", "arguments": {}} and so on', " and so on", [("clock", "{}")]),
    ("hermes", '<tool_call>{"name": "no", "arguments": {}}</tool_call>'
     '<tool_call>{"name": "clock", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "no", "arguments": {}}</tool_call>', [("clock", "{}")]),
    ("hermes", '<tool_call>{"name": <tool_call>{"name": "clock", "arguments": {}}</tool_call>',
     '<tool_call>{"name": ', [("clock", "{}")]),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}}</tool_c', "", [("clock", "{}")]),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}, "id": "x', "", [("clock", "{}")]),
]  # fmt: skip


def run(parser: CallParser, pieces: list[str]) -> list[Content]:
    contents = [content for piece in pieces for content in parser.feed(TextDelta(piece))]
    return merged([*contents, *parser.flush()])


def parse(kind: str, *pieces: str, is_single: bool = False) -> list[Content]:
    tool_format: ToolFormat = FORMATS[kind]
    return run(CallParser(tool_format, NAMES, is_single=is_single), list(pieces))


def collected(contents: list[Content]) -> tuple[str, list[tuple[str, str]]]:
    whole = Collected()
    for content in contents:
        whole.add(content)
    return whole.text, [(call.name, call.arguments) for call in whole.calls]


@pytest.mark.parametrize(("kind", "text", "said", "calls"), CALLS)
def test_calls_are_read(kind: str, text: str, said: str, calls: list[tuple[str, str]]) -> None:
    assert collected(parse(kind, text)) == (said, calls)


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_what_is_no_call_stays_text(kind: str, text: str) -> None:
    assert parse(kind, text) == [TextDelta(text)]


@pytest.mark.parametrize(("kind", "text", "said", "calls"), BROKEN)
def test_a_call_that_breaks_once_certain_stays_with_what_was_written(
    kind: str, text: str, said: str, calls: list[tuple[str, str]]
) -> None:
    assert collected(parse(kind, text)) == (said, calls)


@pytest.mark.parametrize("seed", range(40))
def test_the_pieces_of_a_text_change_nothing(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for kind, text, *_ in [*CALLS, *TEXTS, *BROKEN]:
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.choice([1, 3, len(text)])))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert without_ids(parse(kind, *pieces)) == without_ids(parse(kind, text)), pieces


def without_ids(contents: list[Content]) -> list[Content]:
    return [
        ToolCallStarted(content.index, "", content.name)
        if isinstance(content, ToolCallStarted)
        else content
        for content in contents
    ]


@pytest.mark.parametrize("seed", range(10))
def test_random_texts_are_neither_lost_nor_a_reason_to_fail(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    parts = [
        "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "weather",
        '{"name": ', '"weather"', ', "arguments": ', "{", "}", "[", "]", '"', "\\", ",", " ", "x",
    ]  # fmt: skip
    for _ in range(200):
        pieces = rng.choices(parts, k=rng.randint(1, 14))
        for kind in FORMATS:
            contents = parse(kind, *pieces)
            assert without_ids(contents) == without_ids(parse(kind, "".join(pieces))), pieces
            if not any(isinstance(content, ToolCallStarted) for content in contents):
                assert contents == [TextDelta("".join(pieces))]


def test_a_call_is_sent_while_its_arguments_arrive() -> None:
    parser = CallParser(HERMES, NAMES)
    assert parser.feed(TextDelta('<tool_call>{"name": "weather", "arguments": {')) == []
    (started, first) = parser.feed(TextDelta('"city"'))
    assert isinstance(started, ToolCallStarted)
    assert (started.index, started.name) == (0, "weather")
    assert first == ToolCallDelta(0, '{"city"')
    assert parser.feed(TextDelta(': "Pa')) == [ToolCallDelta(0, ': "Pa')]
    assert parser.feed(TextDelta('ris"}}\n</tool')) == [ToolCallDelta(0, 'ris"}')]
    assert parser.feed(TextDelta("_call>\n")) == []
    assert parser.flush() == []


def test_text_that_cannot_be_a_call_is_sent_at_once() -> None:
    parser = CallParser(HERMES, NAMES)
    assert parser.feed(TextDelta("Good ")) == [TextDelta("Good ")]
    assert parser.feed(TextDelta("day <to")) == [TextDelta("day ")]
    bare = CallParser(JSON, NAMES)
    assert bare.feed(TextDelta('{"title')) == []
    assert bare.feed(TextDelta('": ')) == [TextDelta('{"title": ')]


def test_ids_are_of_the_length_that_the_format_wants_and_differ() -> None:
    for kind, length, prefix in (("hermes", 29, "call_"), ("mistral", 9, "")):
        text = next(text for k, text, _, calls in CALLS if k == kind and len(calls) == 2)
        ids = [c.call_id for c in parse(kind, text) if isinstance(c, ToolCallStarted)]
        assert len(set(ids)) == 2
        for call_id in ids:
            assert len(call_id) == length
            assert call_id.startswith(prefix)
            assert call_id.removeprefix(prefix).isalnum()


def test_one_call_is_enough_where_only_one_is_wanted() -> None:
    text = next(text for kind, text, _, calls in CALLS if kind == "hermes" and len(calls) == 2)
    assert collected(parse("hermes", text, is_single=True)) == ("", [("clock", "{}")])
    parser = CallParser(HERMES, NAMES, is_single=True)
    parser.feed(TextDelta('<tool_call>{"name": "clock", "arguments": {}}'))
    assert parser.is_over


def test_marks_that_are_no_text_are_never_shown() -> None:
    parser = CallParser(MISTRAL, NAMES, hidden={"[TOOL_CALLS]", "[ARGS]"})
    contents = run(parser, ["Oh ", "[TOOL_CALLS]", "nobody", "[ARGS]", '{"a": 1}'])
    assert contents == [TextDelta('Oh nobody{"a": 1}')]


def test_logprobs_leave_with_the_text_they_belong_to() -> None:
    pieces = ["Hm", ".", "<tool_call>", '{"name": "clock", "arguments": {}}', "</tool_call>", " ok"]
    parser = CallParser(HERMES, NAMES)
    entries = [TokenLogprob(piece, piece.encode(), -1.0) for piece in pieces]
    contents: list[Content] = []
    for piece, entry in zip(pieces, entries, strict=True):
        contents += parser.feed(TextDelta(piece, (entry,)))
    contents += parser.flush()
    said = [content for content in contents if isinstance(content, TextDelta)]
    for delta in said:
        assert b"".join(entry.data for entry in delta.logprobs) == delta.text.encode()
    assert "".join(delta.text for delta in said) == "Hm. ok"
