"""What a model looks like, and which tensors a range of its layers needs.

Owns the list of supported architectures and the reading of `config.json`. Knows neither torch nor
where tensors come from, so that placement and packing of shards can use it as well.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_engine.errors import InvalidLayerRange, UnsupportedModel, UntrustedCheckpoint
from shoal_engine.trust import check_config_files

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LAYER_NAME = re.compile(r"^model\.layers\.(\d+)\.")
_COUNT_MAX = 1 << 20
_LAYER_COUNT_MAX = 1024


@dataclass(frozen=True)
class _Family:
    """What a `config.json` of this architecture means where it is silent."""

    model_type: str
    tie_embeddings: bool = False
    context_length: int = 4096
    kv_head_count: int | None = None
    head_dim: int | None = None
    eos_token_ids: tuple[int, ...] = ()


# Each entry was proven equal to `generate` by tests/test_exactness.py before it was added.
FAMILIES: Mapping[str, _Family] = {
    "LlamaForCausalLM": _Family("llama", context_length=2048, eos_token_ids=(2,)),
    "Qwen2ForCausalLM": _Family("qwen2", context_length=32768, kv_head_count=32),
    "Qwen3ForCausalLM": _Family("qwen3", context_length=32768, kv_head_count=32, head_dim=128),
    "MistralForCausalLM": _Family(
        "mistral", context_length=131072, kv_head_count=8, eos_token_ids=(2,)
    ),
    "Gemma2ForCausalLM": _Family(
        "gemma2",
        tie_embeddings=True,
        context_length=8192,
        kv_head_count=4,
        head_dim=256,
        eos_token_ids=(1,),
    ),
    "Phi3ForCausalLM": _Family("phi3", eos_token_ids=(32000,)),
    "Glm4ForCausalLM": _Family(
        "glm4",
        context_length=131072,
        kv_head_count=2,
        head_dim=128,
        eos_token_ids=(151329, 151336, 151338),
    ),
    "Starcoder2ForCausalLM": _Family(
        "starcoder2", tie_embeddings=True, kv_head_count=2, eos_token_ids=(50256,)
    ),
}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model, as its `config.json` states them.

    `context_length` is the number of positions for which every row's numbers are independent of
    its neighbours and of the sequence's final length; rotary variants that switch frequencies
    beyond their original length (longrope) end there. `checkpoint_dtype` is what the config says
    of the stored tensors: float32, bfloat16 or float16.
    """

    architecture: str
    layer_count: int
    hidden_size: int
    vocab_size: int
    context_length: int
    head_count: int
    kv_head_count: int
    head_dim: int
    tie_embeddings: bool
    eos_token_ids: tuple[int, ...]
    checkpoint_dtype: str
    intermediate_size: int = 0

    @property
    def head_layers(self) -> float:
        """The head's weights in those of a layer, which is how long it takes: all are read once."""
        attention = 2 * self.hidden_size * (self.head_count + self.kv_head_count) * self.head_dim
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.vocab_size * self.hidden_size / layer


@dataclass(frozen=True)
class LayerRange:
    """Layers [start, stop) of a model; prints as `0:3`."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise InvalidLayerRange(str(self), "the start must be at least 0 and below the stop")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.stop

    @classmethod
    def parse(cls, text: str) -> "LayerRange":
        """Read `0:3`. Raises InvalidLayerRange."""
        match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text)
        if match is None:
            raise InvalidLayerRange(text, "not two numbers with a colon between")
        return cls(int(match[1]), int(match[2]))

    @property
    def is_first(self) -> bool:
        """True when the stage that holds the range also embeds token ids."""
        return self.start == 0

    def is_last(self, layer_count: int) -> bool:
        """True when the stage that holds the range also makes logits."""
        return self.stop == layer_count

    def check_within(self, layer_count: int) -> None:
        """Raise InvalidLayerRange when the model has fewer layers than the range needs."""
        if self.stop > layer_count:
            raise InvalidLayerRange(str(self), f"the model has {layer_count} layers")


def read_shape(folder: Path) -> ModelShape:
    """Read the shape of the checkpoint in `folder` from its JSON files.

    Raises UntrustedCheckpoint for files that are missing, oversized, linked or malformed, and
    UnsupportedModel for an architecture that this engine does not run exactly.
    """
    config, generation = check_config_files(folder)
    path = folder / "config.json"
    architecture = _architecture(config, path)
    family = FAMILIES[architecture]
    head_count = _count(config, "num_attention_heads", path)
    hidden_size = _count(config, "hidden_size", path)
    kv_head_count = _count(
        config, "num_key_value_heads", path, default=_kv_heads(config, family, head_count)
    )
    if head_count % kv_head_count:
        raise UntrustedCheckpoint(
            path, f"{head_count} heads cannot share {kv_head_count} KV heads", "correct it"
        )
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = config.get("eos_token_id", family.eos_token_ids)
    return ModelShape(
        architecture=architecture,
        layer_count=_count(config, "num_hidden_layers", path, most=_LAYER_COUNT_MAX),
        hidden_size=hidden_size,
        vocab_size=_count(config, "vocab_size", path),
        context_length=_context_length(config, family, path),
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_dim=_count(
            config, "head_dim", path, default=family.head_dim or max(1, hidden_size // head_count)
        ),
        tie_embeddings=bool(config.get("tie_word_embeddings", family.tie_embeddings)),
        eos_token_ids=_token_ids(eos, path),
        checkpoint_dtype=_dtype(config),
        intermediate_size=_intermediate_size(config, hidden_size),
    )


def _intermediate_size(config: Mapping[str, Any], hidden_size: int) -> int:
    """For estimates; what cannot be built with it is refused where it is built."""
    value = config.get("intermediate_size")
    return value if type(value) is int and 0 < value <= _COUNT_MAX else 4 * hidden_size


def tensors_needed(names: Iterable[str], shape: ModelShape, layers: LayerRange) -> list[str]:
    """Of a checkpoint's tensor names, those that a stage for `layers` reads; order is kept.

    The embedding goes to the first stage, the final norm and the head to the last. Where the head
    is tied to the embedding and not stored by itself, the last stage reads the embedding too.
    Raises InvalidLayerRange when `layers` is beyond the model.
    """
    layers.check_within(shape.layer_count)
    names = list(names)
    is_last = layers.is_last(shape.layer_count)
    head_is_embedding = shape.tie_embeddings and HEAD not in names

    def wanted(name: str) -> bool:
        if name.endswith(".rotary_emb.inv_freq"):
            return False  # Old checkpoints store it; it is computed from the config instead.
        match = _LAYER_NAME.match(name)
        if match is not None:
            return int(match[1]) in layers
        if name == EMBEDDING:
            return layers.is_first or (is_last and head_is_embedding)
        return is_last and name.startswith(("model.norm.", "lm_head."))

    return [name for name in names if wanted(name)]


def _architecture(config: Mapping[str, Any], path: Path) -> str:
    supported = ", ".join(sorted(FAMILIES))
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise UntrustedCheckpoint(
            path, "it does not name exactly one architecture", f"supported are {supported}"
        )
    name = named[0][:100]
    if name not in FAMILIES:
        raise UnsupportedModel(f"{name}; supported architectures are {supported}")
    if config.get("model_type", FAMILIES[name].model_type) != FAMILIES[name].model_type:
        raise UntrustedCheckpoint(
            path, f"model_type does not belong to {name}", "correct one of the two"
        )
    if config.get("quantization_config") is not None:
        raise UnsupportedModel(f"{name} with quantised tensors; use an unquantised checkpoint")
    return name


def _kv_heads(config: Mapping[str, Any], family: _Family, head_count: int) -> int:
    if "num_key_value_heads" in config or family.kv_head_count is None:
        return head_count  # An explicit null means one KV head per query head.
    return family.kv_head_count


def _context_length(config: Mapping[str, Any], family: _Family, path: Path) -> int:
    stated = _count(
        config,
        "max_position_embeddings",
        path,
        default=family.context_length,
        most=1 << 30,
    )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UntrustedCheckpoint(path, "rope_parameters is not an object", "correct it")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    is_phi3 = family.model_type == "phi3"
    if kind != "longrope" and not (is_phi3 and kind in ("su", "yarn")):
        return stated
    # Phi-3 keeps the original length beside the rotary parameters and means 4096 by silence.
    key = "original_max_position_embeddings"
    source = config if is_phi3 or key in config else rope
    original = _count(source, key, path, default=4096 if is_phi3 else stated, most=1 << 30)
    return min(stated, original)


def _dtype(config: Mapping[str, Any]) -> str:
    stated = config.get("dtype") or config.get("torch_dtype")
    return stated if stated in ("float32", "bfloat16", "float16") else "float32"


def _count(
    config: Mapping[str, Any],
    key: str,
    path: Path,
    default: int | None = None,
    most: int = _COUNT_MAX,
) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or not 0 < value <= most:
        raise UntrustedCheckpoint(
            path, f"{key} is not a whole number from 1 to {most}", "correct the configuration"
        )
    return value


def _token_ids(value: object, path: Path) -> tuple[int, ...]:
    ids = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    if not all(type(item) is int for item in ids):
        raise UntrustedCheckpoint(
            path,
            f"eos_token_id is not a token id or a list: {json.dumps(value)[:80]}",
            "correct it",
        )
    return tuple(item for item in ids if isinstance(item, int))
