"""Token ids to text, as they come, in whole characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A UTF-8 character has at most 4 bytes, so at most 4 tokens; beyond that the bytes are not text.
INCOMPLETE_TOKENS_MAX = 4
# Special tokens give no text; so many in a row are forgotten, to keep the window small.
SILENT_TOKENS_MAX = 64


class Detokenizer:
    """One reply's text. Joined pieces equal decoding all ids at once, special tokens left out.

    `visible` are special tokens that give their text all the same, each as a piece of its own.
    Each step decodes only the tokens since the last two whole pieces, because decoders treat the
    start of a text differently (a leading space, for one) and characters span tokens.
    """

    def __init__(self, tokenizer: Tokenizer, visible: Mapping[int, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._visible = dict(visible or {})
        self._ids: list[int] = []
        self._read_start = 0

    def feed(self, ids: Sequence[int]) -> str:
        """Returns the text that became complete."""
        return "".join(self._feed_one(token_id) for token_id in ids)

    def flush(self) -> str:
        """Returns what is left, less a character whose bytes never came."""
        text = self._unread_text().rstrip(REPLACEMENT)
        self._advance()
        return text

    def _feed_one(self, token_id: int) -> str:
        if token_id in self._visible:
            return self.flush() + self._visible[token_id]
        self._ids.append(token_id)
        text = self._unread_text()
        unread = len(self._ids) - self._read_start
        if not text and unread < SILENT_TOKENS_MAX:
            return ""
        if text.endswith(REPLACEMENT) and unread < INCOMPLETE_TOKENS_MAX:
            return ""
        self._advance()
        return text

    def _unread_text(self) -> str:
        known = self._decode(self._ids[: self._read_start])
        return self._decode(self._ids)[len(known) :]

    def _advance(self) -> None:
        self._ids = self._ids[self._read_start :]
        self._read_start = len(self._ids)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)
