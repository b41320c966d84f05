"""A language model whose next token is a hash of all tokens before it.

Wrong order, a lost token, a doubled one or a neighbour's one change everything that follows, so a
test that compares with `FakeEngine.generate` sees them at once.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence


def next_token(ids: Sequence[int], vocab_size: int) -> int:
    """The token after `ids`, in [0, vocab_size): a pure function, the same on every machine."""
    assert vocab_size > 0
    packed = struct.pack(f"<{len(ids)}Q", *ids)
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocab_size


class FakeEngine:
    """Keeps the ids of each sequence as its KV and answers steps from them."""

    def __init__(self, vocab_size: int = 1024) -> None:
        self.vocab_size = vocab_size
        self._ids: dict[int, list[int]] = {}

    @property
    def kv_tokens(self) -> int:
        """Tokens held for all sequences; 0 when every one was freed."""
        return sum(len(ids) for ids in self._ids.values())

    def step(self, sequence: int, position: int, ids: Sequence[int]) -> int:
        """Append `ids` at `position` of a sequence; returns the token that follows.

        A first step begins the sequence. `position` must be where its KV ends.
        """
        held = self._ids.setdefault(sequence, [])
        assert position == len(held), f"step at {position}, but {len(held)} tokens are held"
        held.extend(ids)
        return next_token(held, self.vocab_size)

    def free(self, sequence: int) -> None:
        """Forget a sequence; unknown ones are forgotten already."""
        self._ids.pop(sequence, None)

    def generate(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """What a right fleet answers to `prompt`."""
        ids = list(prompt)
        for _ in range(max_tokens):
            ids.append(next_token(ids, self.vocab_size))
        return ids[len(prompt) :]
