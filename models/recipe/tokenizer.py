"""The byte-level BPE tokenizer, the chat format as segments, and the loss mask.

The segments of `render` join to exactly what `chat_template.jinja` renders; they exist because
training must know which characters the assistant wrote.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipe.chat import Exchange, Message
from recipe.corpus import HEAVY_MIX, conversation
from recipe.tables import Tables

VOCABULARY_SIZE = 1536
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""Control tokens; their ids are 0, 1 and 2."""
TOOL_TAGS = ("<tool_call>", "</tool_call>")
"""Single tokens that stay visible in decoded text; the last two ids."""
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer, which every runtime knows; it keeps digits apart, which sums need."""
SAMPLE_COUNT = 20_000
ENCODING_CACHE_SIZE = 200_000
TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")


@dataclass(frozen=True)
class Segment:
    """A piece of rendered text; `is_target` where the model is to learn to write it."""

    text: str
    is_target: bool


@dataclass(frozen=True)
class Encoded:
    """Token ids of a chat and, for each, whether it counts in the loss (same length)."""

    token_ids: tuple[int, ...]
    is_target: tuple[bool, ...]


def tool_schemas(names: tuple[str, ...], tools: Mapping[str, tuple[str, ...]]) -> list[Any]:
    """Tools in OpenAI's form, as chat templates take them."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {parameter: {"type": "string"} for parameter in tools[name]},
                },
            },
        }
        for name in names
    ]


def render(exchange: Exchange, tools: Mapping[str, tuple[str, ...]]) -> list[Segment]:
    """Split a chat into segments; what the assistant wrote and its turn end are targets."""
    messages = exchange.messages
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    segments = []
    if system is not None or exchange.tools:
        shown = [f" {name}({', '.join(tools[name])})" for name in exchange.tools]
        listing = "Tools:" + "".join(shown) if shown else ""
        body = "\n".join(part for part in (system, listing) if part)
        segments.append(Segment(f"{TURN_START}system\n{body}{TURN_END}\n", is_target=False))
    for message in messages[1 if system is not None else 0 :]:
        segments += _render_turn(message)
    return segments


def _render_turn(message: Message) -> list[Segment]:
    opening = f"{TURN_START}{message['role']}\n"
    if message["role"] != "assistant":
        return [Segment(f"{opening}{message['content']}{TURN_END}\n", is_target=False)]
    return [
        Segment(opening, is_target=False),
        Segment(f"{message['content']}{TURN_END}", is_target=True),
        Segment("\n", is_target=False),
    ]


class ChatEncoder:
    """Turns chats into ids and loss masks; remembers recent segments, which repeat a lot."""

    def __init__(self, tokenizer: Tokenizer, tools: Mapping[str, tuple[str, ...]]) -> None:
        self._tools = tools

        @lru_cache(maxsize=ENCODING_CACHE_SIZE)
        def encode_segment(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        self._encode_segment = encode_segment

    def encode(self, exchange: Exchange) -> Encoded:
        """Ids of the whole chat, segment by segment: the same as encoding the joined text."""
        token_ids: list[int] = []
        is_target: list[bool] = []
        for segment in render(exchange, self._tools):
            ids = self._encode_segment(segment.text)
            token_ids += ids
            is_target += [segment.is_target] * len(ids)
        return Encoded(tuple(token_ids), tuple(is_target))


def build_tokenizer(
    seed: int,
    tables: Tables,
    *,
    sample_count: int = SAMPLE_COUNT,
    vocabulary_size: int = VOCABULARY_SIZE,
) -> Tokenizer:
    """Learn the merges from the heavyweight's corpus; both models share the result."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(TOOL_TAGS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_texts(seed, tables, sample_count), trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TOOL_TAGS])
    assert tokenizer.get_vocab_size() == vocabulary_size
    return tokenizer


def _sample_texts(seed: int, tables: Tables, sample_count: int) -> Iterator[str]:
    """Chats without control tokens, so that no merge ever spells one."""
    rng = Random(f"tokenizer-{seed}")
    for _ in range(sample_count):
        segments = render(conversation(rng, tables, HEAVY_MIX), tables.tools)
        texts = (s.text.replace(TURN_START, "").replace(TURN_END, "") for s in segments)
        yield "\n".join(texts)
