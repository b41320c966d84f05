"""Thoughts, stop strings and calls of one reply, from ids to contents."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from shoal.worker.v1 import stage_pb2
from shoal_common.tokens import ModelTokens
from shoal_gateway.collect import Collected
from shoal_gateway.reply import Reply, merged
from shoal_gateway.shape import Reading, ReadingRules, reading_of
from shoal_gateway.task import ChatTask, Content, Message, TextDelta, Tool, ToolChoice

THINKS = "<think>{{ tools }}<tool_call>"
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokens(demo_tokens: ModelTokens) -> ModelTokens:
    """The demo vocabulary, with thoughts between tokens of text and Mistral's special ones."""
    tokenizer = Tokenizer.from_str(demo_tokens.tokenizer.to_str())
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>")])
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True) for mark in ("[TOOL_CALLS]", "[THINK]", "[/THINK]")]
    )
    return ModelTokens.from_files({"tokenizer.json": tokenizer.to_str().encode()})


def reading(
    tokens: ModelTokens,
    template: str = THINKS,
    prompt: str = "",
    mode: Any = "auto",
    **fields: Any,
) -> Reading:
    task = ChatTask("m", (Message("user", "hi"),), **({"tools": (Tool("f"),)} | fields))
    return reading_of(task, template, prompt, tokens, ReadingRules(reasoning_mode=mode))


def say(how: Reading, *pieces: str, stop: tuple[str, ...] = ()) -> Collected:
    shape = how.shape(stop)
    whole = Collected()
    for piece in pieces:
        for content in shape.feed(TextDelta(piece)):
            whole.add(content)
    for content in shape.flush():
        whole.add(content)
    return whole


def test_thoughts_are_told_apart(tokens: ModelTokens) -> None:
    whole = say(reading(tokens), "<think>\nwell,\n I see\n</think>\n\nHello\n")
    assert (whole.reasoning, whole.text) == ("well,\n I see", "Hello\n")


def test_thoughts_that_the_prompt_opened_are_told_apart(tokens: ModelTokens) -> None:
    inside = reading(tokens, prompt="<|im_start|>assistant\n<think>\n")
    assert inside.starts_inside
    for text in ("I see</think>Hello", "<think>I see</think>Hello"):
        whole = say(inside, text)
        assert (whole.reasoning, whole.text) == ("I see", "Hello")
    unfinished = say(inside, "I see, but ")
    assert (unfinished.reasoning, unfinished.text) == ("I see, but", "")


@pytest.mark.parametrize("text", ["Hello", "  Hello <think>x</think>", "<thin", "</think>", " \n"])
def test_a_reply_without_thoughts_is_text(text: str, tokens: ModelTokens) -> None:
    whole = say(reading(tokens), text)
    assert (whole.reasoning, whole.text) == ("", text)


def test_empty_thoughts_are_none(tokens: ModelTokens) -> None:
    whole = say(reading(tokens), "<think>\n\n</think>\n\nHello")
    assert (whole.reasoning, whole.text) == ("", "Hello")


@pytest.mark.parametrize(
    ("mode", "reasoning", "text"),
    [
        ("auto", "hm", "Hello"),
        ("off", "", "Hello"),
        ("preserve", "", "<think>hm</think>\nHello"),
    ],
)
def test_the_mode_says_what_becomes_of_thoughts(
    mode: str, reasoning: str, text: str, tokens: ModelTokens
) -> None:
    whole = say(reading(tokens, mode=mode), "<think>hm</think>\nHello")
    assert (whole.reasoning, whole.text) == (reasoning, text)


def test_models_that_do_not_think_may_write_of_it(tokens: ModelTokens) -> None:
    whole = say(reading(tokens, template="plain"), "<think>hm</think>")
    assert (whole.reasoning, whole.text) == ("", "<think>hm</think>")


def test_calls_after_thoughts_are_calls_and_calls_thought_of_are_not(tokens: ModelTokens) -> None:
    whole = say(reading(tokens), f"<think>perhaps {CALL}?</think>\n{CALL}")
    assert whole.reasoning == f"perhaps {CALL}?"
    assert [(call.name, call.arguments) for call in whole.calls] == [("f", '{"x": 1}')]
    assert whole.text == ""


def test_stop_strings_are_looked_for_in_what_is_said_only(tokens: ModelTokens) -> None:
    whole = say(reading(tokens), "<think>no END yet</think>so END it", stop=("END",))
    assert (whole.reasoning, whole.text) == ("no END yet", "so ")


@pytest.mark.parametrize("mode", ["none", "auto"])
def test_calls_stay_text_where_no_tool_may_be_called(mode: Any, tokens: ModelTokens) -> None:
    hidden = reading(tokens, tool_choice=ToolChoice("none"))
    off = reading_of(
        ChatTask("m", (), tools=(Tool("f"),)), THINKS, "", tokens, ReadingRules(tool_mode="off")
    )
    for how in (hidden, off):
        assert say(how, CALL).text == CALL


@pytest.mark.parametrize("seed", range(20))
def test_the_pieces_of_a_reply_change_nothing(seed: int, tokens: ModelTokens) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    texts = [
        f"<think>\n a b \n\n</think>\n\n Hi <b> {CALL}",
        "<think> </think> x",
        "a<think>",
        f" {CALL} END x",
        "<think>unfinished </thin",
    ]
    for text in texts:
        for prompt in ("", "<think>"):
            how = reading(tokens, prompt=prompt)
            cuts = sorted(rng.choices(range(len(text) + 1), k=rng.choice([1, 4, len(text)])))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            assert essence(say(how, *pieces, stop=("END",))) == essence(
                say(how, text, stop=("END",))
            ), (prompt, pieces)


def essence(whole: Collected) -> tuple[str, str, list[tuple[str, str]]]:
    return whole.reasoning, whole.text, [(call.name, call.arguments) for call in whole.calls]


def feed(reply: Reply, ids: list[int]) -> list[Content]:
    given = [stage_pb2.GeneratedToken(token_id=token, logprob=-1.0) for token in ids]
    contents = reply.feed(stage_pb2.TokensDelta(first_position=0, tokens=given))
    return merged([*contents, *reply.flush()])


def collected(contents: list[Content]) -> Collected:
    whole = Collected()
    for content in contents:
        whole.add(content)
    return whole


def test_tokens_between_the_marks_are_counted_as_thoughts(tokens: ModelTokens) -> None:
    for mode in ("auto", "off"):
        thought = tokens.encode("one two three")
        ids = [*tokens.encode("<think>"), *thought, *tokens.encode("</think>yes")]
        reply = Reply(tokens, (), wants_logprobs=False, reading=reading(tokens, mode=mode))
        feed(reply, ids)
        assert reply.reasoning_token_count == len(thought)
        assert len(reply.ids) == len(ids)


def test_special_tokens_are_read_but_never_shown(tokens: ModelTokens) -> None:
    how = reading(tokens, template="[TOOL_CALLS][THINK]")
    call = '[TOOL_CALLS][{"name": "f", "arguments": {}}]'
    whole = collected(feed(Reply(tokens, (), False, how), tokens.encode(f"[THINK]a[/THINK]{call}")))
    assert essence(whole) == ("a", "", [("f", "{}")])
    bad = collected(feed(Reply(tokens, (), False, how), tokens.encode("so [TOOL_CALLS]nothing")))
    assert bad.text == "so nothing"


def test_logprobs_are_those_of_the_text(tokens: ModelTokens) -> None:
    reply = Reply(tokens, (), True, reading(tokens))
    contents = feed(reply, tokens.encode(f"<think>a b</think>\n\nHello you{CALL}"))
    said = [content for content in contents if isinstance(content, TextDelta)]
    assert "".join(delta.text for delta in said) == "Hello you"
    data = b"".join(entry.data for delta in said for entry in delta.logprobs)
    assert data == b"Hello you"


def test_a_reply_ends_after_the_only_call_that_is_wanted(tokens: ModelTokens) -> None:
    how = reading(tokens, allows_parallel_calls=False)
    reply = Reply(tokens, (), False, how)
    ids = tokens.encode(f"{CALL}\n{CALL}")
    whole = collected(feed(reply, ids))
    assert len(whole.calls) == 1
    assert reply.is_stopped
    assert reply.stop_string is None
    assert len(reply.ids) < len(ids) / 2
