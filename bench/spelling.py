"""Text of exactly so many tokens, and answers that can be seen token by token.

Owns what benchmarks over HTTP need to know of a checkpoint's tokenizer.
"""

from __future__ import annotations

import random
import re
import string
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

# Byte-level tokenizers write a leading space as this letter. Such a word is cut off from its
# neighbours before any merging, and so it stays one token in a row of others.
_WORD = re.compile("Ġ[a-z]+")


class Spelling:
    """What a checkpoint's tokenizer can spell."""

    def __init__(self, folder: Path) -> None:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        self._words = sorted(word[1:] for word in vocabulary if _WORD.fullmatch(word))
        self.letter_ids = sorted(vocabulary[x] for x in string.ascii_lowercase if x in vocabulary)
        assert self._words, f"no byte-level tokenizer in {folder}"

    def words(self, count: int) -> str:
        """`count` tokens of text, drawn anew each time, so that no cache knows them."""
        return "".join(f" {word}" for word in random.choices(self._words, k=count))

    def chat(self, model: str, text: str, count: int) -> dict[str, Any]:
        """A request for exactly `count` tokens, each of them seen as text when it is made.

        Letters are favoured so strongly that nothing else is chosen: a random checkpoint would say
        ids that its borrowed tokenizer cannot spell, and a trained one would end.
        """
        return {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": count,
            "logit_bias": {str(token): 100 for token in self.letter_ids},
        }
