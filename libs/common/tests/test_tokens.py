"""Templates, detokenising and stop strings, on the demo model's own tokenizer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_common.tokens import ModelTokens, StopChecker, TemplateFailed, TemplateRenderer
from shoal_common.tokens.errors import ModelFilesBroken
from shoal_common.tokens.model_tokens import FILE_NAMES

MODEL = Path(__file__).parents[3] / "models" / "heavyweight"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def model_files() -> dict[str, bytes]:
    return {name: (MODEL / name).read_bytes() for name in FILE_NAMES if (MODEL / name).exists()}


@pytest.fixture(scope="module")
def tokens() -> ModelTokens:
    return ModelTokens.from_files(model_files())


@pytest.fixture
async def renderer() -> AsyncIterator[TemplateRenderer]:
    renderer = TemplateRenderer(worker_count=1, time_limit_s=0.5)
    await renderer.start()
    yield renderer
    await renderer.close()


def test_stop_ids_come_from_every_configuration(tokens: ModelTokens) -> None:
    assert tokens.stop_token_ids == (0, 2)
    assert tokens.special_tokens["eos_token"] == "<|im_end|>"


def test_pieces_join_to_the_text_and_hold_whole_characters(tokens: ModelTokens) -> None:
    text = "naïve 🦈 shoal — 魚群 of\n fish  "
    ids = tokens.encode(text)
    detokenizer = tokens.detokenizer()
    pieces = [detokenizer.feed([token_id]) for token_id in ids]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert "" in pieces, "some character spans several tokens"


def test_half_a_character_at_the_end_is_dropped(tokens: ModelTokens) -> None:
    ids = tokens.encode("a🦈")
    detokenizer = tokens.detokenizer()
    assert detokenizer.feed(ids[:-1]) + detokenizer.flush() == "a"


def test_bytes_that_are_no_text_do_not_wait_for_ever(tokens: ModelTokens) -> None:
    broken = tokens.encode("🦈")[0]
    detokenizer = tokens.detokenizer()
    assert detokenizer.feed([broken] * 12) != ""


def test_special_tokens_give_no_text(tokens: ModelTokens) -> None:
    detokenizer = tokens.detokenizer()
    assert detokenizer.feed([1, *tokens.encode("hello"), 2]) + detokenizer.flush() == "hello"


def test_special_tokens_give_text_where_it_is_asked_for(tokens: ModelTokens) -> None:
    start = tokens.added_id("<|im_start|>")
    assert start is not None
    detokenizer = tokens.detokenizer({start: "<|im_start|>"})
    ids = [*tokens.encode("so"), start, *tokens.encode("hello"), 2]
    assert detokenizer.feed(ids) + detokenizer.flush() == "so<|im_start|>hello"


def test_added_tokens_are_known_by_their_text(tokens: ModelTokens) -> None:
    call = tokens.added_id("<tool_call>")
    assert call is not None
    assert not tokens.is_special(call)
    assert tokens.is_special(2)
    assert tokens.added_id("hello") is None


def test_token_bytes_join_to_the_text(tokens: ModelTokens) -> None:
    text = "fish 🦈 swim"
    assert b"".join(map(tokens.token_bytes, tokens.encode(text))) == text.encode()
    assert tokens.token_bytes(2) == b"<|im_end|>"
    assert tokens.token_bytes(10**6) == b""


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}"])
def test_a_malformed_tokenizer_is_named(content: bytes) -> None:
    with pytest.raises(ModelFilesBroken, match=r"tokenizer\.json"):
        ModelTokens.from_files({"tokenizer.json": content})


def test_a_stop_string_over_pieces_is_never_sent() -> None:
    checker = StopChecker(["</end>", "STOP"])
    assert [checker.feed(piece) for piece in ("abc</", "en", "d>more", "x")] == ["abc", "", "", ""]
    assert checker.is_stopped
    assert checker.flush() == ""


def test_what_only_looked_like_a_stop_string_is_sent() -> None:
    checker = StopChecker(["</end>"])
    assert checker.feed("a</en") == "a"
    assert checker.feed("try") == "</entry"
    assert checker.feed("<") + checker.flush() == "<"


def test_the_first_stop_string_wins_however_the_text_is_cut() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(300):
        text = "".join(draw.choices("ab", k=30))
        stops = ["".join(draw.choices("ab", k=draw.randint(2, 6))) for _ in range(2)]
        checker = StopChecker(stops)
        sent, at = "", 0
        while at < len(text):
            step = draw.randint(1, 4)
            sent += checker.feed(text[at : at + step])
            at += step
            assert not any(stop in sent for stop in stops)
        sent += checker.flush()
        # The end of a stop string decides which is first to be complete; cuts may not.
        assert text.startswith(sent)
        assert checker.is_stopped == any(stop in text for stop in stops)
        if not checker.is_stopped:
            assert sent == text


async def test_the_demo_template_renders_chat_and_tools(
    renderer: TemplateRenderer, tokens: ModelTokens
) -> None:
    source = tokens.template(has_tools=False)
    assert source is not None
    tool = {
        "type": "function",
        "function": {"name": "look", "parameters": {"properties": {"a": 1}}},
    }
    variables = {
        "messages": [{"role": "user", "content": "hi <&>"}],
        "tools": [tool],
        "add_generation_prompt": True,
    }
    prompt = await renderer.render(source, variables)
    assert prompt == (
        "<|im_start|>system\nTools: look(a)<|im_end|>\n"
        "<|im_start|>user\nhi <&><|im_end|>\n<|im_start|>assistant\n"
    )


async def test_helpers_of_published_templates_are_there(renderer: TemplateRenderer) -> None:
    source = (
        "{{ x | tojson }}|{{ strftime_now('%Y') | length }}|"
        "{% generation %}g{% endgeneration %}{% for i in [1, 2] %}{% break %}{% endfor %}"
    )
    assert await renderer.render(source, {"x": {"k": "<é>"}}) == '{"k": "<é>"}|4|g'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("x" * (256 * 1024 + 1), "limit is 262144"),
        ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "longer than"),
        ("{{ 'x' * 9999999999 }}", "memory"),
        (ENDLESS, "longer than 0.5 s"),
    ],
)
async def test_a_bad_template_is_a_clear_error_and_the_next_one_works(
    renderer: TemplateRenderer, source: str, reason: str
) -> None:
    with pytest.raises(TemplateFailed, match=reason):
        await renderer.render(source, {"messages": []})
    assert await renderer.render("{{ 1 + 1 }}", {}) == "2"


async def test_a_request_that_gives_up_leaves_no_answer_for_the_next(
    renderer: TemplateRenderer,
) -> None:
    given_up = asyncio.create_task(renderer.render(ENDLESS, {}))
    await asyncio.wait({given_up}, timeout=0.05)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await renderer.render("next", {}) == "next"
