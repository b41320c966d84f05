"""A GGUF file's vocabulary as the tokenizer files of a Hugging Face checkpoint.

Owns which vocabularies are understood: byte-level BPE by the name of its way to split text, and
SentencePiece BPE with scores. An unknown one is refused by name: splitting text another way than in
training gives wrong tokens that nobody notices. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from shoal_shard_store.errors import UntrustedFolder

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_MARKS_AND_SPACES}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_MARKS_AND_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
_GPT2 = frozenset({"", "default", "gpt-2"})
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def tokenizer_files(metadata: Mapping[str, Any], file_name: str) -> dict[str, bytes]:
    """tokenizer.json and what lies beside it. Raises UntrustedFolder."""
    vocabulary = _Vocabulary(metadata, file_name)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        document = vocabulary.byte_level()
    elif kind == "llama":
        document = vocabulary.sentence_piece()
    else:
        raise vocabulary.refused(f"its vocabulary is of the kind '{str(kind)[:40]}'")
    files = {
        "tokenizer.json": document,
        "tokenizer_config.json": vocabulary.config(),
        "generation_config.json": vocabulary.generation(),
    }
    encoded = {
        name: json.dumps(value, ensure_ascii=False).encode() for name, value in files.items()
    }
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        encoded["chat_template.jinja"] = template.encode()
    return encoded


class _Vocabulary:
    """Tokens, their types, and which of them are special."""

    def __init__(self, metadata: Mapping[str, Any], file_name: str) -> None:
        self._metadata = metadata
        self._file_name = file_name
        tokens = self._said("tokens")
        if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
            raise self.refused("it has no vocabulary")
        self._tokens: list[str] = tokens
        types = self._said("token_type")
        self._types = types if isinstance(types, list) and len(types) == len(tokens) else []
        self._pre = str(self._said("pre") or "")

    def refused(self, problem: str) -> UntrustedFolder:
        return UntrustedFolder(
            self._file_name, problem, "use the model's safetensors, or another file"
        )

    def byte_level(self) -> dict[str, Any]:
        if self._pre not in _PATTERNS and self._pre not in _GPT2:
            raise self.refused(f"it splits text the unknown way '{self._pre[:40]}'")
        pattern = _PATTERNS.get(self._pre)
        split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
        steps: list[dict[str, Any]] = [{**split, "use_regex": pattern is None}]
        if pattern is not None:
            cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
            steps.insert(0, {**cut, "invert": False})
        return self._document(
            normalizer={"type": "NFC"} if pattern == _QWEN2 else None,
            pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
            decoder={**split, "use_regex": True},
            model={
                "unk_token": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self._pre in _WHOLE_WORDS_FIRST,
                "merges": self._merges(),
            },
        )

    def sentence_piece(self) -> dict[str, Any]:
        scores = self._said("scores")
        if not isinstance(scores, list) or len(scores) != len(self._tokens):
            raise self.refused("its vocabulary has no scores")
        has_merges = isinstance(self._said("merges"), list)
        space = "\u2581"
        marked = [{"type": "Replace", "pattern": {"String": " "}, "content": space}]
        is_prefixed = self._said("add_space_prefix") is not False
        if is_prefixed:
            marked.insert(0, {"type": "Prepend", "prepend": space})
        back: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": space}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if is_prefixed:
            back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return self._document(
            normalizer={"type": "Sequence", "normalizers": marked},
            pre_tokenizer=None,
            decoder={"type": "Sequence", "decoders": back},
            model={
                "unk_token": self._token("unknown_token_id") or "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "merges": self._merges() if has_merges else self._scored_merges(scores),
            },
        )

    def config(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self._adds_bos,
        }
        keys = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
        for name, key in {**keys, "unk": "unknown_token_id"}.items():
            config[f"{name}_token"] = self._token(key)
        return config

    def generation(self) -> dict[str, Any]:
        """generation_config.json: where a reply ends."""
        ends = [self._id(key) for key in _END_KEYS]
        known = list(dict.fromkeys(each for each in ends if each is not None))
        config: dict[str, Any] = {"eos_token_id": known[0] if len(known) == 1 else known}
        if (bos := self._id("bos_token_id")) is not None:
            config["bos_token_id"] = bos
        return config

    @property
    def _adds_bos(self) -> bool:
        said = self._said("add_bos_token")
        if isinstance(said, bool):
            return said
        is_sentence_piece = self._metadata.get("tokenizer.ggml.model") == "llama"
        return is_sentence_piece or self._pre in _WHOLE_WORDS_FIRST

    def _document(
        self,
        normalizer: dict[str, Any] | None,
        pre_tokenizer: dict[str, Any] | None,
        decoder: dict[str, Any],
        model: dict[str, Any],
    ) -> dict[str, Any]:
        vocab = {token: index for index, token in enumerate(self._tokens)}
        common = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self._post_processor(),
            "decoder": decoder,
            "model": {"type": "BPE", **common, **model, "vocab": vocab},
        }

    def _added(self) -> list[dict[str, Any]]:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {
                "id": index,
                "content": self._tokens[index],
                **plain,
                "special": kind == _CONTROL,
            }
            for index, kind in enumerate(self._types)
            if kind in (_CONTROL, _USER_DEFINED) and self._tokens[index]
        ]

    def _post_processor(self) -> dict[str, Any] | None:
        bos, index = self._token("bos_token_id"), self._id("bos_token_id")
        if not self._adds_bos or bos is None:
            return None
        first = {"SpecialToken": {"id": bos, "type_id": 0}}
        texts = [{"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1))]
        return {
            "type": "TemplateProcessing",
            "single": [first, texts[0]],
            "pair": [first, texts[0], {"SpecialToken": {"id": bos, "type_id": 1}}, texts[1]],
            "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
        }

    def _merges(self) -> list[list[str]]:
        merges = self._said("merges")
        if not isinstance(merges, list):
            raise self.refused("its vocabulary has no merges")
        known = set(self._tokens)
        pairs = []
        for merge in merges:
            left, _, right = str(merge).partition(" ")
            if left not in known or right not in known or left + right not in known:
                raise self.refused("its merges name tokens that it does not have")
            pairs.append([left, right])
        return pairs

    def _scored_merges(self, scores: Sequence[float]) -> list[list[str]]:
        """What SentencePiece does by score, as ranked pairs: best score first, then shorter."""
        rank = {token: index for index, token in enumerate(self._tokens)}
        kinds = self._types or [1] * len(self._tokens)
        plain = {token for token, kind in zip(self._tokens, kinds, strict=True) if kind == 1}
        found = []
        for token, score, kind in zip(self._tokens, scores, kinds, strict=True):
            if kind != 1:
                continue
            pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = [(left, right) for left, right in pairs if left in plain and right in plain]
            known.sort(key=lambda pair: (rank[pair[0]], rank[pair[1]]))
            found += [(score, left, right) for left, right in known]
        found.sort(key=lambda each: (-each[0], -len(each[1]), -len(each[2])))
        return [[left, right] for _, left, right in found]

    def _said(self, key: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}")

    def _id(self, key: str) -> int | None:
        value = self._said(key)
        return value if type(value) is int and 0 <= value < len(self._tokens) else None

    def _token(self, key: str) -> str | None:
        index = self._id(key)
        return None if index is None else self._tokens[index]
