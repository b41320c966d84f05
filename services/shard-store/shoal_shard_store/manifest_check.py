"""Manifests as plain data: whether one from elsewhere may be believed, and what two of them share.

Owns the checks of a manifest that another store sent, and drafts: manifests in which digests of
groups that nobody has fetched yet are empty. Pure. A layout is what is left of a manifest without
its digests; stores with one layout hold parts of the same weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blake3 import blake3

from shoal_shard_store.catalog import check_model_name
from shoal_shard_store.errors import DamagedManifest
from shoal_shard_store.manifest import FORMAT, LAYER_COUNT_MAX, canonical_bytes
from shoal_shard_store.model_folder import SIDE_FILES

MANIFEST_SIZE_BYTES_MAX = 32 << 20
_SIZE_BYTES_MAX = 1 << 44
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_manifest(raw: bytes, model: str) -> dict[str, Any]:
    """A manifest from another store as data. Raises DamagedManifest for anything that is wrong.

    What is checked: shape and types, safe file names, digests, groups in order without gaps,
    shards that are exactly filled by their segments, and segments by their tensors.
    """
    if len(raw) > MANIFEST_SIZE_BYTES_MAX:
        raise DamagedManifest(model, f"it has {len(raw)} bytes")
    try:
        document = json.loads(raw)
        _require(canonical_bytes(document) == raw, "its bytes are not in the one order")
        _check(document, model)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise DamagedManifest(model, f"it is malformed ({type(err).__name__})") from err
    except _Refused as err:
        raise DamagedManifest(model, str(err)) from err
    return dict(document)


class _Refused(Exception):
    """What is wrong with a manifest."""


def _require(is_so: object, problem: str) -> None:
    if not is_so:
        raise _Refused(problem)


def _check(document: Mapping[str, Any], model: str) -> None:
    _require(document["format"] == FORMAT, "its format is another")
    _require(document["model"] == model, "it is of another model")
    check_model_name(model)
    layer_count = document["layer_count"]
    _require(type(layer_count) is int, "its layer count is no number")
    _require(0 < layer_count <= LAYER_COUNT_MAX, "its layer count is impossible")
    _require(type(document["context_length"]) is int, "its context length is no number")
    _require(type(document["tie_embeddings"]) is bool, "tie_embeddings is no truth value")
    _require(isinstance(document["architecture"], str), "its architecture is no name")
    for name, ref in document["files"].items():
        _require(name in SIDE_FILES, f"it names the file {name[:80]!r}")
        _check_ref(ref, is_digest_needed=True)
    for ref in document["shards"]:
        _check_ref(ref, is_digest_needed=False)
    names = [group["name"] for group in document["groups"]]
    expected = ["embed", *(f"layer.{layer}" for layer in range(layer_count)), "head"]
    _require(names == expected, "its groups are not embedding, layers, head")
    _check_shards(document)


def _check_ref(ref: Mapping[str, Any], is_digest_needed: bool) -> None:
    _check_size(ref["size_bytes"])
    if ref["digest"] or is_digest_needed:
        _require(_DIGEST.fullmatch(ref["digest"]), "a digest is no BLAKE3")


def _check_size(value: object) -> None:
    is_size = type(value) is int and 0 <= value <= _SIZE_BYTES_MAX
    _require(is_size, "a size is impossible")


def _check_shards(document: Mapping[str, Any]) -> None:
    shards = document["shards"]
    filled = [0] * len(shards)
    for group in document["groups"]:
        _require(group["segments"], "a group has no bytes")
        for segment in group["segments"]:
            index = segment["shard"]
            _require(type(index) is int, "a shard's index is no number")
            _require(0 <= index < len(shards), "a segment is in no shard")
            _require(segment["offset_bytes"] == filled[index], "segments overlap or leave gaps")
            _check_size(segment["size_bytes"])
            filled[index] += segment["size_bytes"]
            if segment["digest"] or shards[index]["digest"]:
                _require(_DIGEST.fullmatch(segment["digest"]), "a digest is no BLAKE3")
            _check_tensors(segment)
    sizes = [shard["size_bytes"] for shard in shards]
    _require(filled == sizes, "segments do not fill their shards")


def _check_tensors(segment: Mapping[str, Any]) -> None:
    end = 0
    for tensor in segment["tensors"]:
        _require(isinstance(tensor["name"], str), "a tensor has no name")
        _require(isinstance(tensor["dtype"], str), "a tensor has no dtype")
        _require(
            all(type(size) is int and size >= 0 for size in tensor["shape"]), "a shape is none"
        )
        _require(tensor["offset_bytes"] == end, "tensors overlap or leave gaps")
        _check_size(tensor["size_bytes"])
        end += tensor["size_bytes"]
    _require(end == segment["size_bytes"], "tensors do not fill their segment")


def shards_of(document: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Per group, the indexes of the shards that hold some of it."""
    return {
        group["name"]: tuple(dict.fromkeys(segment["shard"] for segment in group["segments"]))
        for group in document["groups"]
    }


def groups_wanted(document: Mapping[str, Any], layers: Iterable[int] | None) -> list[str]:
    """Groups that a worker of those layers needs, in the manifest's order; all of them for None."""
    names = [group["name"] for group in document["groups"]]
    if layers is None:
        return names
    last = document["layer_count"] - 1
    wanted = {f"layer.{layer}" for layer in layers}
    if "layer.0" in wanted or (document["tie_embeddings"] and f"layer.{last}" in wanted):
        wanted.add("embed")
    if f"layer.{last}" in wanted:
        wanted.add("head")
    return [name for name in names if name in wanted]


def missing_digests(document: Mapping[str, Any]) -> list[str]:
    """Groups of which a digest is unknown; none for a manifest that is no draft."""
    shards = document["shards"]
    return [
        group
        for group, indexes in shards_of(document).items()
        if not all(shards[index]["digest"] for index in indexes)
    ]


def layout_of(document: Mapping[str, Any]) -> str:
    """Name of everything in a manifest but the digests of its shards, hex."""
    blank = dict(document)
    blank["shards"] = [{"size_bytes": shard["size_bytes"]} for shard in document["shards"]]
    blank["groups"] = [
        {**group, "segments": [{**part, "digest": ""} for part in group["segments"]]}
        for group in document["groups"]
    ]
    return blake3(canonical_bytes(blank)).hexdigest()


def merged(document: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with the digests that only `other`, of the same layout, knows.

    Raises DamagedManifest when both know one and disagree.
    """
    known = [shard["digest"] for shard in document["shards"]]
    told = [shard["digest"] for shard in other["shards"]]
    if any(left and right and left != right for left, right in zip(known, told, strict=True)):
        raise DamagedManifest(document["model"], "it contradicts the digests that are known here")
    digests = [left or right for left, right in zip(known, told, strict=True)]
    segments = {
        (part["shard"], part["offset_bytes"]): part["digest"]
        for source in (other, document)
        for group in source["groups"]
        for part in group["segments"]
        if part["digest"]
    }
    return _with_digests(document, digests, segments)


def with_digests(document: Mapping[str, Any], digests: Mapping[int, str]) -> dict[str, Any]:
    """A draft with the digests of those shards, each of which is one segment."""
    found = [digests.get(i) or shard["digest"] for i, shard in enumerate(document["shards"])]
    return _with_digests(document, found, {(i, 0): digest for i, digest in digests.items()})


def _with_digests(
    document: Mapping[str, Any], digests: Sequence[str], segments: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    changed = dict(document)
    changed["shards"] = [
        {**shard, "digest": digest}
        for shard, digest in zip(document["shards"], digests, strict=True)
    ]
    changed["groups"] = [
        {
            **group,
            "segments": [
                {
                    **part,
                    "digest": segments.get((part["shard"], part["offset_bytes"]), part["digest"]),
                }
                for part in group["segments"]
            ],
        }
        for group in document["groups"]
    ]
    return changed


def spans(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges that cover exactly `layers`, ascending."""
    found: list[tuple[int, int]] = []
    for layer in sorted(set(layers)):
        if found and found[-1][1] == layer:
            found[-1] = (found[-1][0], layer + 1)
        else:
            found.append((layer, layer + 1))
    return found


def layers_in(groups: Iterable[str]) -> list[int]:
    """Numbers of the layers among groups."""
    return [int(name.removeprefix("layer.")) for name in groups if name.startswith("layer.")]
