"""Text survives the tokenizer; segments, template and loss mask agree."""

from pathlib import Path
from random import Random

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from recipe.chat import Exchange, Message, assistant, question, user
from recipe.corpus import HEAVY_MIX, conversation
from recipe.tables import Tables
from recipe.tokenizer import (
    SPECIAL_TOKENS,
    TEMPLATE_PATH,
    TOOL_TAGS,
    TURN_END,
    VOCABULARY_SIZE,
    ChatEncoder,
    build_tokenizer,
    render,
    tool_schemas,
)
from tokenizers import Tokenizer

SHIPPED = ("drafter", "heavyweight")
MODELS_PATH = Path(__file__).resolve().parents[2]


def render_template(text: str, exchange: Exchange, tables: Tables) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    schemas = tool_schemas(exchange.tools, tables.tools)
    return environment.from_string(text).render(messages=list(exchange.messages), tools=schemas)


def chats(tables: Tables, chat_count: int) -> list[Exchange]:
    rng = Random(21)
    return [conversation(rng, tables, HEAVY_MIX) for _ in range(chat_count)]


def test_segments_join_to_what_the_template_renders(tables: Tables) -> None:
    template = TEMPLATE_PATH.read_text(encoding="utf-8")
    for chat in chats(tables, 60):
        joined = "".join(segment.text for segment in render(chat, tables.tools))
        assert joined == render_template(template, chat, tables)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_carry_the_recipes_template(name: str) -> None:
    shipped = (MODELS_PATH / name / "chat_template.jinja").read_text(encoding="utf-8")
    assert shipped == TEMPLATE_PATH.read_text(encoding="utf-8")


def test_structured_calls_render_like_written_ones(tables: Tables) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    written = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call>'
    function = {"name": "get_time", "arguments": '{"city": "Oslo"}'}
    structured = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
    assert template.render(messages=[structured]) == template.render(messages=[assistant(written)])


def test_template_joins_text_parts_and_opens_the_answer() -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    text = template.render(
        messages=[{"role": "user", "content": parts}], add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "text", ["Hello!", "  two  spaces\n\nlines\t", "naïve 漢字 🐟", "12345", "{'a': [1]}", "\x00"]
)
def test_any_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_control_tokens_come_first_and_tool_tags_last(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    last = [VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1]
    assert [tokenizer.token_to_id(tag) for tag in TOOL_TAGS] == last


def test_digits_stay_apart(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]


def test_same_seed_learns_the_same_merges(tables: Tables) -> None:
    first, second = (
        build_tokenizer(4, tables, sample_count=300, vocabulary_size=400) for _ in range(2)
    )
    assert first.to_str() == second.to_str()


def test_segment_encoding_equals_encoding_of_the_whole(
    tokenizer: Tokenizer, tables: Tables
) -> None:
    encoder = ChatEncoder(tokenizer, tables.tools)
    for chat in chats(tables, 60):
        whole = "".join(segment.text for segment in render(chat, tables.tools))
        expected = tokenizer.encode(whole, add_special_tokens=False).ids
        assert list(encoder.encode(chat).token_ids) == expected


def test_loss_mask_covers_exactly_what_the_assistant_writes(
    tokenizer: Tokenizer, tables: Tables
) -> None:
    system: Message = {"role": "system", "content": "Be brief."}
    turns = (*question("Hi!", "Hello there.").messages, user("Bye."), assistant("See you."))
    encoded = ChatEncoder(tokenizer, tables.tools).encode(Exchange((system, *turns), ("search",)))
    pairs = zip(encoded.token_ids, encoded.is_target, strict=True)
    targets = [token_id for token_id, is_target in pairs if is_target]
    written = tokenizer.decode(targets, skip_special_tokens=False)
    assert written == f"Hello there.{TURN_END}See you.{TURN_END}"
