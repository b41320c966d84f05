"""A checkpoint's text side: tokenizer, template, special tokens and sampling defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from shoal_common.tokens.detokenizer import Detokenizer
from shoal_common.tokens.errors import ModelFilesBroken

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token")
# The files that `ModelTokens.from_files` reads; only the first must be there.
FILE_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ModelTokens:
    """Immutable, and safe to share between requests and threads."""

    tokenizer: Tokenizer
    # Template sources by name; "default" is the usual one, "tool_use" wins where tools are given.
    templates: Mapping[str, str]
    special_tokens: Mapping[str, str]
    generation_config: Mapping[str, Any]
    # Ids that end a reply.
    stop_token_ids: tuple[int, ...]
    is_byte_level: bool
    # Of tokenizer.json: equal ones give the same ids for the same text, and back.
    tokenizer_digest: str
    _added: Mapping[int, str] = field(repr=False)
    # Added tokens that decoding leaves out.
    _special_ids: frozenset[int] = field(repr=False)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> ModelTokens:
        """Takes the contents of FILE_NAMES by name; slow for large vocabularies (about 1 s).

        Raises ModelFilesBroken.
        """
        tokenizer = _read_tokenizer(files)
        tokenizer_config = _read_json(files, "tokenizer_config.json")
        generation_config = _read_json(files, "generation_config.json")
        special_tokens = _special_tokens(tokenizer_config)
        configs = (generation_config, _read_json(files, "config.json"))
        return cls(
            tokenizer=tokenizer,
            templates=_templates(files, tokenizer_config),
            special_tokens=special_tokens,
            generation_config=generation_config,
            stop_token_ids=_stop_token_ids(tokenizer, special_tokens, configs),
            is_byte_level="ByteLevel" in repr(tokenizer.decoder),
            tokenizer_digest=blake3(files["tokenizer.json"]).hexdigest(),
            _added={
                token_id: added.content
                for token_id, added in tokenizer.get_added_tokens_decoder().items()
            },
            _special_ids=frozenset(
                token_id
                for token_id, added in tokenizer.get_added_tokens_decoder().items()
                if added.special
            ),
        )

    def template(self, has_tools: bool) -> str | None:
        """The source to render, or None when the checkpoint has no chat template."""
        if has_tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        return self.templates.get("default")

    def encode(self, prompt: str) -> list[int]:
        """Ids of a rendered prompt; the template has written the special tokens already."""
        return list(self.tokenizer.encode(prompt, add_special_tokens=False).ids)

    def detokenizer(self, visible: Mapping[int, str] | None = None) -> Detokenizer:
        """`visible`: special tokens that give text all the same."""
        return Detokenizer(self.tokenizer, visible)

    def added_id(self, text: str) -> int | None:
        """The id of an added token that is exactly this text."""
        return next((at for at, content in self._added.items() if content == text), None)

    def is_special(self, token_id: int) -> bool:
        """Decoding leaves it out, unless it is asked for."""
        return token_id in self._special_ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which need not be whole characters. Empty for unknown ids."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self.tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_byte_level and all(char in BYTE_OF_CHAR for char in token):
            return bytes(BYTE_OF_CHAR[char] for char in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _byte_of_char() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable bytes stand for themselves, others follow 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHAR = _byte_of_char()


def _read_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    from tokenizers import Tokenizer

    if "tokenizer.json" not in files:
        raise ModelFilesBroken("tokenizer.json", "it is missing")
    try:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    # The library raises bare Exception for every malformed file.
    except Exception as err:
        raise ModelFilesBroken("tokenizer.json", str(err)[:200]) from err
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = json.loads(files[name])
    except ValueError as err:
        raise ModelFilesBroken(name, "it is not JSON") from err
    if not isinstance(value, dict):
        raise ModelFilesBroken(name, "it is not a JSON object")
    return value


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in SPECIAL_TOKEN_NAMES:
        token = tokenizer_config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            found[name] = token
    return found


def _templates(files: Mapping[str, bytes], tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    if "chat_template.jinja" in files:
        return {"default": files["chat_template.jinja"].decode(errors="replace")}
    source = tokenizer_config.get("chat_template")
    if isinstance(source, str):
        return {"default": source}
    if isinstance(source, list):
        named = [entry for entry in source if isinstance(entry, dict)]
        return {str(entry.get("name")): str(entry.get("template")) for entry in named}
    return {}


def _stop_token_ids(
    tokenizer: Tokenizer, special_tokens: Mapping[str, str], configs: tuple[Mapping[str, Any], ...]
) -> tuple[int, ...]:
    found: set[int] = set()
    for config in configs:
        value = config.get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found |= {entry for entry in values if isinstance(entry, int) and entry >= 0}
    if "eos_token" in special_tokens:
        token_id = tokenizer.token_to_id(special_tokens["eos_token"])
        found |= set() if token_id is None else {token_id}
    return tuple(sorted(found))
