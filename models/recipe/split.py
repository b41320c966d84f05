"""The wall between training and benchmark: a hash of the prompt decides its side.

One prompt in twelve is held out. The shipped weights were trained behind this very hash, so
changing it would let their benchmark leak into what they have seen.
"""

import hashlib
import json
from collections.abc import Sequence

from recipe.chat import Exchange, Message

HELD_OUT_ONE_IN = 12


def prompt_key(prompt: Sequence[Message]) -> int:
    """32-bit key of a prompt: the same on every machine and in every process."""
    digest = hashlib.sha1(json.dumps(list(prompt)).encode(), usedforsecurity=False)
    return int.from_bytes(digest.digest()[:4], "big")


def is_held_out(prompt: Sequence[Message]) -> bool:
    """Whether this prompt is reserved for the benchmark."""
    return prompt_key(prompt) % HELD_OUT_ONE_IN == 0


def is_trainable(exchange: Exchange) -> bool:
    """Whether no assistant turn of `exchange` answers a held-out prompt."""
    return not any(is_held_out(prompt) for prompt in exchange.prompts())
