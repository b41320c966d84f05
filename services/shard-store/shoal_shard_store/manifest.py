"""From a folder's facts to shards: which tensor goes where, and the manifest that says so.

Owns the manifest's format and the packing rule. Pure: it reads and writes no file. Groups are what
a worker asks for (embedding, one layer, head); a shard is a file of at most about
`shard_size_bytes` that holds tensors of one group, so that a store may keep some groups without
the others; a segment is what of a group lies in one shard. In a draft, digests of groups that
nobody has fetched yet are empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from shoal_shard_store.errors import UntrustedFolder
from shoal_shard_store.safetensors_header import StoredTensor

FORMAT = 1
LAYER_COUNT_MAX = 1024
CONTEXT_LENGTH_UNSTATED = 2048
"""Assumed where a configuration is silent: the smallest default of the supported families."""

_LAYER_NAME = re.compile(r"^model\.layers\.(\d{1,6})\.")
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_CORRECT_IT = "correct the configuration"


@dataclass(frozen=True)
class ModelFacts:
    """What a manifest says of a model apart from its bytes."""

    architecture: str
    layer_count: int
    context_length: int
    tie_embeddings: bool
    width: int = 0
    """Values of one token between two layers; 0 where the configuration does not say."""
    kv_width: int = 0
    """Values of one token's keys and values in one layer; 0 where it does not say."""


@dataclass(frozen=True)
class SegmentPlan:
    """Tensors of one group that lie end to end in shard number `shard`."""

    shard: int
    offset_bytes: int
    tensors: tuple[StoredTensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class GroupPlan:
    """What one layer, the embedding or the head needs. `layer` is None for the latter two."""

    name: str
    layer: int | None
    segments: tuple[SegmentPlan, ...]


@dataclass(frozen=True)
class ShardPlan:
    """The segments of all shards in the order in which they are written."""

    groups: tuple[GroupPlan, ...]
    shard_count: int

    def segments_of(self, shard: int) -> list[SegmentPlan]:
        """Segments of one shard by offset."""
        return [
            segment for group in self.groups for segment in group.segments if segment.shard == shard
        ]

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for group in self.groups for segment in group.segments)


@dataclass(frozen=True)
class BlobRef:
    """A blob by BLAKE3 (hex) and size."""

    digest: str
    size_bytes: int


@dataclass
class _Packer:
    """Fills shards in order; a tensor is never cut, so a huge one makes a huge shard."""

    shard_size_bytes: int
    shard_count: int = 0
    segments: list[SegmentPlan] = field(default_factory=list)

    def pack(self, tensors: Sequence[StoredTensor]) -> tuple[SegmentPlan, ...]:
        """Shards of one group."""
        self.segments = []
        run: list[StoredTensor] = []
        used_bytes = 0
        for tensor in tensors:
            if run and used_bytes + tensor.size_bytes > self.shard_size_bytes:
                self._close(run)
                run, used_bytes = [], 0
            run.append(tensor)
            used_bytes += tensor.size_bytes
        self._close(run)
        return tuple(self.segments)

    def _close(self, run: list[StoredTensor]) -> None:
        self.segments.append(SegmentPlan(self.shard_count, 0, tuple(run)))
        self.shard_count += 1


def plan_shards(
    tensors: Sequence[StoredTensor], layer_count: int, shard_size_bytes: int
) -> ShardPlan:
    """Pack tensors into shards: embedding, layers in order, head.

    The same tensors give the same plan. Raises UntrustedFolder for tensors that belong to no group
    and for layers without any.
    """
    assert shard_size_bytes > 0
    grouped: dict[str, list[StoredTensor]] = {"embed": []}
    grouped |= {f"layer.{layer}": [] for layer in range(layer_count)}
    grouped["head"] = []
    for tensor in sorted(tensors, key=lambda item: (item.file_name, item.offset_bytes, item.name)):
        if tensor.name.endswith(".rotary_emb.inv_freq"):
            continue  # Old checkpoints store it; engines compute it from the configuration.
        grouped[_group_of(tensor, layer_count)].append(tensor)
    empty = [name for name, members in grouped.items() if not members]
    if empty:
        raise UntrustedFolder(
            "tensors", f"nothing is stored for {', '.join(empty[:8])}", "complete the download"
        )
    packer = _Packer(shard_size_bytes)
    groups = tuple(
        GroupPlan(name, _layer_of(name), packer.pack(members)) for name, members in grouped.items()
    )
    return ShardPlan(groups, packer.shard_count)


def _layer_of(group: str) -> int | None:
    return int(group.removeprefix("layer.")) if group.startswith("layer.") else None


def _group_of(tensor: StoredTensor, layer_count: int) -> str:
    match = _LAYER_NAME.match(tensor.name)
    if match is not None and int(match[1]) < layer_count:
        return f"layer.{int(match[1])}"
    if tensor.name == _EMBEDDING:
        return "embed"
    if tensor.name.startswith(("model.norm.", "lm_head.")):
        return "head"
    raise UntrustedFolder(
        tensor.file_name,
        f"tensor {tensor.name[:200]} belongs to no layer below {layer_count}, embedding or head",
        "only plain text models can be split",
    )


def facts_of(config: Mapping[str, Any], tensor_names: Sequence[str]) -> ModelFacts:
    """Read a model's facts from its configuration. Raises UntrustedFolder."""
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise UntrustedFolder("config.json", "it does not name one architecture", _CORRECT_IT)
    is_tied = _HEAD not in tensor_names
    if is_tied and config.get("tie_word_embeddings") is False:
        raise UntrustedFolder(
            "tensors",
            f"{_HEAD} is missing and the embeddings are not tied",
            "complete the download",
        )
    return ModelFacts(
        architecture=named[0][:100],
        layer_count=_count(config, "num_hidden_layers", None, LAYER_COUNT_MAX),
        context_length=_context_length(config),
        tie_embeddings=is_tied,
        width=_stated(config, "hidden_size"),
        kv_width=_kv_width(config),
    )


def _kv_width(config: Mapping[str, Any]) -> int:
    latent = _stated(config, "kv_lora_rank")
    if latent:
        return latent + _stated(config, "qk_rope_head_dim")
    query_heads = _stated(config, "num_attention_heads")
    heads = _stated(config, "num_key_value_heads") or query_heads
    width = _stated(config, "head_dim")
    if not width and query_heads:
        width = _stated(config, "hidden_size") // query_heads
    return 2 * heads * width


def _stated(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and 0 < value < 1 << 24 else 0


def _context_length(config: Mapping[str, Any]) -> int:
    """Positions up to which rotary frequencies stay the same; longer variants switch there."""
    key = "max_position_embeddings"
    stated = _count(config, key, CONTEXT_LENGTH_UNSTATED, 1 << 30)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UntrustedFolder("config.json", "rope_parameters is not an object", _CORRECT_IT)
    is_phi3 = config.get("model_type") == "phi3"
    kind = rope.get("rope_type") or rope.get("type")
    if kind != "longrope" and not (is_phi3 and kind in ("su", "yarn")):
        return stated
    original_key = "original_max_position_embeddings"
    holder = config if is_phi3 or original_key in config else rope
    return min(stated, _count(holder, original_key, 4096 if is_phi3 else stated, 1 << 30))


def _count(config: Mapping[str, Any], key: str, default: int | None, most: int) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= most:
        problem = f"{key} is not a whole number from 1 to {most}"
        raise UntrustedFolder("config.json", problem, _CORRECT_IT)
    return value


def manifest_bytes(
    model: str,
    facts: ModelFacts,
    files: Mapping[str, BlobRef],
    shards: Sequence[BlobRef],
    plan: ShardPlan,
    segment_digests: Mapping[SegmentPlan, str],
    source: Mapping[str, Any] | None = None,
) -> bytes:
    """The canonical bytes of a manifest: sorted keys, no spaces, ASCII.

    source: identity of the remote files, so that parts of different weights are never mixed.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "model": model,
        "architecture": facts.architecture,
        "layer_count": facts.layer_count,
        "context_length": facts.context_length,
        "tie_embeddings": facts.tie_embeddings,
        "files": {name: _blob_json(ref) for name, ref in files.items()},
        "shards": [_blob_json(ref) for ref in shards],
        "groups": [
            {
                "name": group.name,
                "layer": group.layer,
                "segments": [
                    _segment_json(segment, segment_digests[segment]) for segment in group.segments
                ],
            }
            for group in plan.groups
        ],
    }
    if facts.width:
        document["width"] = facts.width
    if facts.kv_width:
        document["kv_width"] = facts.kv_width
    if source is not None:
        document["source"] = dict(source)
    return canonical_bytes(document)


def canonical_bytes(document: Mapping[str, Any]) -> bytes:
    """The one way in which a manifest is written."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _blob_json(ref: BlobRef) -> dict[str, Any]:
    return {"digest": ref.digest, "size_bytes": ref.size_bytes}


def _segment_json(segment: SegmentPlan, digest: str) -> dict[str, Any]:
    tensors: list[dict[str, Any]] = []
    offset_bytes = 0
    for tensor in segment.tensors:
        entry = {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "offset_bytes": offset_bytes,
            "size_bytes": tensor.size_bytes,
        }
        if tensor.permuted_heads:
            entry["permuted_heads"] = tensor.permuted_heads
        tensors.append(entry)
        offset_bytes += tensor.size_bytes
    return {
        "shard": segment.shard,
        "offset_bytes": segment.offset_bytes,
        "size_bytes": segment.size_bytes,
        "digest": digest,
        "tensors": tensors,
    }


def revision_of(manifest_json: bytes) -> str:
    """A manifest's name: the BLAKE3 of its canonical bytes, hex."""
    return blake3(manifest_json).hexdigest()


def blobs_of(document: Mapping[str, Any]) -> dict[str, int]:
    """Digest to size of every blob that a manifest names."""
    refs = [*document["files"].values(), *document["shards"]]
    return {ref["digest"]: ref["size_bytes"] for ref in refs}
