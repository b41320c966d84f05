"""Replies that must match a grammar: compiling one, and following a reply through it.

Owns the limits on what strangers may ask for, the vocabulary as a grammar sees it (`TokenTable`),
and which tokens may come next (`GrammarState`). A state is rebuilt from the ids of a reply at any
time. Does not know sampling, text or requests. Nothing here is bounded in time: whoever compiles
what a stranger wrote has it judged by `grammar_check` first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from shoal_common.errors import InvalidGrammar
from shoal_engine.grammar_check import parser_limits, shortened

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

GRAMMAR_BYTES_MAX = 64 * 1024
REGEX_BYTES_MAX = 8 * 1024
CHOICE_COUNT_MAX = 1000

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark"]
Ids = npt.NDArray[np.int64]

# Weak models fill a reply with white space where they may; a schema cannot loosen this.
_JSON_RULES: JsonCompileOptions = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"[ \n\t]{1,20}",
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}


@dataclass(frozen=True)
class GrammarSpec:
    """What a reply must look like.

    text: the schema, expression or Lark grammar. choices: the texts of kind choice.
    """

    kind: GrammarKind
    text: str = ""
    choices: tuple[str, ...] = ()

    def source(self) -> str:
        """The grammar in llguidance's own form. Raises InvalidGrammar beyond a limit."""
        if self.kind == "choice":
            return LLMatcher.grammar_from_lark(_choice(self.choices))
        if self.kind == "json_object":
            return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=_JSON_RULES)
        _check_size(self.text, REGEX_BYTES_MAX if self.kind == "regex" else GRAMMAR_BYTES_MAX)
        if self.kind == "regex":
            return LLMatcher.grammar_from_regex(self.text)
        if self.kind == "lark":
            return LLMatcher.grammar_from_lark(self.text)
        return LLMatcher.grammar_from_json_schema(_schema(self.text), overrides=_JSON_RULES)


def _check_size(text: str, size_max: int) -> None:
    size = len(text.encode())
    if size > size_max:
        raise InvalidGrammar(f"it has {size} bytes, the limit is {size_max}")


def _choice(texts: Sequence[str]) -> str:
    if not 0 < len(texts) <= CHOICE_COUNT_MAX:
        raise InvalidGrammar(f"it has {len(texts)} choices; allowed: 1 to {CHOICE_COUNT_MAX}")
    if not all(texts):
        raise InvalidGrammar("a choice is empty")
    grammar = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    _check_size(grammar, GRAMMAR_BYTES_MAX)
    return grammar


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InvalidGrammar("the schema is not JSON, or nested too deeply") from err
    if not isinstance(schema, dict):
        raise InvalidGrammar("the schema must be a JSON object")
    return schema


class TokenTable:
    """The bytes of every token, and the ids that end a reply. Read-only, shared by all grammars.

    Takes about 1 s and 170 MB for 152,000 tokens.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Raises InvalidGrammar for a tokeniser whose tokens' bytes cannot be known."""
        if not eos_token_ids:
            raise InvalidGrammar("the model's files name no end-of-sequence token")
        self.vocab_size = vocab_size
        self.ends = frozenset(eos_token_ids)
        self.eos_token_ids = np.array(sorted(self.ends), dtype=np.int64)
        try:
            self.tokenizer = LLTokenizer(
                tokenizer_json, n_vocab=vocab_size, eos_token=self.eos_token_ids.tolist()
            )
        except ValueError as err:
            raise InvalidGrammar(f"not with this model's tokeniser: {shortened(str(err))}") from err

    @classmethod
    def from_folder(
        cls, folder: Path, vocab_size: int, eos_token_ids: Sequence[int] = ()
    ) -> TokenTable:
        """Reads tokenizer.json, and the ids that end a reply from all files that name some."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidGrammar("the model has no tokenizer.json")
        text = path.read_text(encoding="utf-8")
        found = set(eos_token_ids) | _configured_eos(folder, text)
        return cls(text, vocab_size, [token for token in found if 0 <= token < vocab_size])


def _configured_eos(folder: Path, tokenizer_json: str) -> set[int]:
    """Chat models end replies with another token than the one that ends a document."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        value = _read_object(folder / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found |= {token for token in ids if isinstance(token, int)}
    token = _read_object(folder / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = json.loads(tokenizer_json).get("added_tokens") or []
    return found | {entry["id"] for entry in added if text and entry.get("content") == text}


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes()) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


class CompiledGrammar:
    """A grammar over one vocabulary. `state` costs microseconds.

    Its replies share what it learns of the vocabulary; is_worn: that has outgrown its bound, and
    every further reply would fail, until it is compiled anew.
    """

    def __init__(self, matcher: LLMatcher, table: TokenTable) -> None:
        self._matcher = matcher
        self._table = table
        self.is_worn = False

    def state(self, generated_ids: Sequence[int] = ()) -> GrammarState:
        """Where a reply stands. Raises InvalidGrammar when these ids do not match."""
        state = GrammarState(self, self._matcher.deep_copy(), self._table)
        for token_id in generated_ids:
            state.observe(token_id)
        return state


def compile_grammar(spec: GrammarSpec, table: TokenTable) -> CompiledGrammar:
    """Compile for one vocabulary, about 1 ms. Raises InvalidGrammar with the reason."""
    matcher = LLMatcher(table.tokenizer, spec.source(), log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise InvalidGrammar(shortened(matcher.get_error()))
    compiled = CompiledGrammar(matcher, table)
    # Only looking for a first token shows that no text at all matches.
    compiled.state().allowed_ids()
    return compiled


class GrammarState:
    """One reply's place in its grammar: the state after observing ids one by one equals the state
    built with them. Once complete and ended, only end-of-sequence ids are left."""

    def __init__(self, compiled: CompiledGrammar, matcher: LLMatcher, table: TokenTable) -> None:
        self._compiled = compiled
        self._matcher = matcher
        self._eos_token_ids = table.eos_token_ids
        self._vocab_size = table.vocab_size
        self._ends = table.ends
        mask = np.zeros(-(-table.vocab_size // 32), dtype=np.int32)
        self._mask_bytes = mask.view(np.uint8)
        # Asking numpy for an address takes as long as many a mask.
        self._mask_place = (mask.ctypes.data, mask.nbytes)
        self._has_ended = False

    def allowed_ids(self) -> Ids:
        """Ids that may come next, ascending, at least one; end-of-sequence ids only where the
        reply is complete. Raises InvalidGrammar when it is too costly to tell."""
        if self._has_ended:
            return self._eos_token_ids
        self._matcher.unsafe_compute_mask_ptr(*self._mask_place)
        if self._matcher.is_error():
            raise InvalidGrammar(self._failure())
        bits = np.unpackbits(self._mask_bytes, count=self._vocab_size, bitorder="little")
        ids: Ids = bits.view(np.bool_).nonzero()[0]
        if not ids.shape[0]:
            raise InvalidGrammar("the model's vocabulary cannot write what it asks for")
        return ids

    def observe(self, token_id: int) -> None:
        """The reply goes on with this token. Raises InvalidGrammar when it must not."""
        if self._has_ended:
            return
        if token_id in self._ends:
            if not self._matcher.is_accepting():
                raise InvalidGrammar("the reply ended before it was complete")
            self._has_ended = True
        elif not self._matcher.consume_token(token_id):
            raise InvalidGrammar("the tokens generated so far do not match it")

    def _failure(self) -> str:
        reason = shortened(self._matcher.get_error())
        if reason.startswith("NoExtension"):
            return "no text matches it"
        self._compiled.is_worn = True
        return f"it is too complex to follow ({reason}); simplify its patterns"
