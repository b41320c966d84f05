"""Prompts of exact length and answers in letters, with the demo model's tokenizer."""

from __future__ import annotations

import string
from pathlib import Path

from tokenizers import Tokenizer

from bench.spelling import Spelling

MODEL = Path(__file__).resolve().parents[2] / "models" / "heavyweight"


def test_words_are_as_many_tokens_as_asked_for() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    spelling = Spelling(MODEL)
    for count in (1, 4, 500):
        text = spelling.words(count)
        assert len(tokenizer.encode(text, add_special_tokens=False).ids) == count, text
    assert spelling.words(50) != spelling.words(50)


def test_a_chat_can_only_be_answered_in_letters() -> None:
    spelling = Spelling(MODEL)
    spelled = Tokenizer.from_file(str(MODEL / "tokenizer.json")).decode(spelling.letter_ids)
    assert sorted(spelled) == list(string.ascii_lowercase)
    body = spelling.chat("m", "hi", 3)
    assert body["logit_bias"] == {str(token): 100 for token in spelling.letter_ids}
    assert body["max_tokens"] == 3
