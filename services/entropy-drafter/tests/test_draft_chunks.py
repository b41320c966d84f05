"""What chunks of a stream are worth, whole ones and broken ones."""

from __future__ import annotations

from typing import Any

import pytest
from openai._models import construct_type
from openai.types.chat import ChatCompletionChunk

from shoal.worker.v1 import stage_pb2
from shoal_entropy_drafter.draft.base import DraftToken
from shoal_entropy_drafter.draft.chunks import ChunkReader
from shoal_entropy_drafter.errors import DraftFailed

from .chat_upstream import chunk, entry, event, told, usage


def read(*items: dict[str, Any]) -> tuple[ChunkReader, list[DraftToken]]:
    """The reader after these events, and the tokens they brought. As the SDK does, unchecked."""
    reader, tokens = ChunkReader(5), []
    for item in items:
        taken = reader.take(construct_type(type_=ChatCompletionChunk, value=item))
        tokens += taken.tokens if taken is not None else []
    return reader, tokens


def known(tokens: list[DraftToken]) -> list[tuple[str, bool]]:
    return [(token.text, token.entropy.is_known) for token in tokens]


def test_whole_answer_is_its_tokens_and_its_usage() -> None:
    reader, tokens = read(*told("Par", "is", "."))
    assert known(tokens) == [("Par", True), ("is", True), (".", True)]
    assert all(token.entropy.renormalised < 0.01 for token in tokens)
    end = reader.ended()
    assert end.reason == stage_pb2.FINISH_REASON_STOP
    counts = (end.prompt_token_count, end.completion_token_count, end.cached_token_count)
    assert counts == (9, 3, 4)


def test_usage_that_never_comes_leaves_the_count_open() -> None:
    reader, _ = read(chunk("a", [entry("a")]), chunk(finish="length"))
    assert reader.ended().completion_token_count is None
    assert reader.ended().reason == stage_pb2.FINISH_REASON_LENGTH


def test_chunks_that_say_nothing_are_no_tokens() -> None:
    head = chunk(role="assistant")
    _, tokens = read(head, chunk(""), event(), event(choices=None))
    assert tokens == []
    _, tokens = read(event(choices="nonsense"), chunk(finish="stop"))
    assert tokens == []


def test_delta_of_several_tokens_is_taken_apart() -> None:
    _, tokens = read(chunk("Par is", [entry("Par"), entry(" is")]))
    assert known(tokens) == [("Par", True), (" is", True)]


def test_text_that_is_not_its_tokens_leaves_with_the_last_of_them() -> None:
    # A token per byte, and the character at the end: three parts of a euro sign.
    parts = [entry("\ufffd") | {"bytes": [byte]} for byte in "€".encode()]
    _, tokens = read(chunk("", parts[:1]), chunk("€", parts[1:]))
    assert known(tokens) == [("", True), ("", True), ("€", True)]


def test_text_without_candidates_is_unknown() -> None:
    _, tokens = read(chunk("Paris"), chunk(".", [entry(".")]))
    assert known(tokens) == [("Paris", False), (".", True)]
    assert tokens[0].entropy.renormalised > 2.3


def test_text_beyond_the_tokens_shown_is_unknown() -> None:
    _, tokens = read(chunk("Paris is", [entry("Paris")]), chunk(" big", [entry(" big")]))
    assert known(tokens) == [("Paris is", True), ("", False), (" big", True)]


def test_character_behind_its_tokens_is_no_missing_token() -> None:
    first, second = (entry("\ufffd") | {"bytes": list(half)} for half in (b"\xc3", b"\xa9"))
    _, tokens = read(chunk("", [first]), chunk("é", [second]), chunk("!", [entry("!")]))
    assert known(tokens) == [("", True), ("é", True), ("!", True)]


@pytest.mark.parametrize("top", [None, [], "nonsense", [{"token": "a"}], [{"logprob": "much"}]])
def test_entry_without_readable_candidates_is_unknown(top: Any) -> None:
    _, tokens = read(chunk("a", [entry("a") | {"top_logprobs": top}]))
    assert known(tokens) == [("a", False)]


def test_infinite_and_absent_figures_are_unknown_not_confident() -> None:
    for logprob in (float("nan"), float("-inf"), None):
        _, tokens = read(chunk("a", [entry("a", [("a", logprob)])]))  # type: ignore[list-item]
        assert known(tokens) == [("a", False)]


def test_only_the_first_choice_is_read() -> None:
    item = chunk("other", [entry("other")])
    item["choices"][0]["index"] = 1
    assert read(item)[1] == []


CALL = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "item",
    [
        chunk(tool_calls=[CALL]),
        chunk(function_call={"name": "f", "arguments": ""}),
        chunk(finish="tool_calls"),
        chunk(finish="function_call"),
    ],
)
def test_draft_that_calls_a_tool_is_given_up(item: dict[str, Any]) -> None:
    with pytest.raises(DraftFailed) as caught:
        read(chunk("Let me see", [entry("Let me see")]), item)
    assert caught.value.verdict_reason == "tool_call"


@pytest.mark.parametrize(
    "item",
    [
        chunk(refusal="I will not"),
        chunk(finish="content_filter"),
        chunk(finish="who knows"),
        event(choices=[{"index": 0, "delta": "nonsense"}]),
        event(choices=[{"index": 0, "delta": {"content": 7}}]),
        event(choices=[{"index": 0, "delta": {}, "logprobs": {"content": 3}}]),
    ],
)
def test_what_cannot_be_an_answer_is_an_error(item: dict[str, Any]) -> None:
    with pytest.raises(DraftFailed) as caught:
        read(item)
    assert caught.value.verdict_reason == "error"


def test_stream_without_a_finish_was_cut_off() -> None:
    reader, _ = read(chunk("Par", [entry("Par")]), usage(1))
    with pytest.raises(DraftFailed, match="without a finish"):
        reader.ended()


def test_usage_of_another_shape_is_not_believed() -> None:
    reader, _ = read(chunk(finish="stop"), event(usage={"completion_tokens": "many"}))
    assert reader.ended().completion_token_count is None
