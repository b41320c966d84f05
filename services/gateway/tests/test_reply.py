"""Text, stop strings and logprobs of one reply."""

from __future__ import annotations

from shoal.worker.v1 import stage_pb2
from shoal_common.tokens import ModelTokens
from shoal_gateway.reply import Reply
from shoal_gateway.task import TextDelta


def delta(first_position: int, ids: list[int]) -> stage_pb2.TokensDelta:
    tokens = [stage_pb2.GeneratedToken(token_id=token_id, logprob=-1.0) for token_id in ids]
    return stage_pb2.TokensDelta(first_position=first_position, tokens=tokens)


def run(reply: Reply, ids: list[int]) -> list[TextDelta]:
    parts = [part for at, token in enumerate(ids) for part in reply.feed(delta(at, [token]))]
    parts.extend(reply.flush())
    return [part for part in parts if isinstance(part, TextDelta)]


def test_positions_that_came_before_are_dropped(demo_tokens: ModelTokens) -> None:
    ids = demo_tokens.encode("one two three")
    reply = Reply(demo_tokens, (), wants_logprobs=False)
    reply.feed(delta(0, ids[:2]))
    reply.feed(delta(0, ids[:3]))
    reply.feed(delta(1, ids[1:]))
    assert reply.ids == ids


def test_logprobs_wait_for_their_text(demo_tokens: ModelTokens) -> None:
    ids = demo_tokens.encode("a ## b")
    reply = Reply(demo_tokens, ("## END",), wants_logprobs=True)
    for part in run(reply, ids):
        assert b"".join(entry.data for entry in part.logprobs) == part.text.encode()


def test_tokens_of_a_stop_string_have_no_logprobs(demo_tokens: ModelTokens) -> None:
    ids = demo_tokens.encode("keep ## END")
    reply = Reply(demo_tokens, ("## END",), wants_logprobs=True)
    entries = [entry for part in run(reply, ids) for entry in part.logprobs]
    assert reply.is_stopped
    assert b"##" not in b"".join(entry.data for entry in entries)
    assert entries


def test_no_logprobs_unless_asked(demo_tokens: ModelTokens) -> None:
    reply = Reply(demo_tokens, (), wants_logprobs=False)
    assert all(not part.logprobs for part in run(reply, demo_tokens.encode("fish")))


def test_a_stop_string_that_the_flush_completes_is_not_sent(demo_tokens: ModelTokens) -> None:
    reply = Reply(demo_tokens, ("LAST",), wants_logprobs=False)
    text = "".join(part.text for part in run(reply, [*demo_tokens.encode("the LAST"), 2]))
    assert text == "the "
    assert reply.is_stopped
