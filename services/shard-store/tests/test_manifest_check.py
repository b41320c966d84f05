"""Manifests from elsewhere: none of many ways to lie is believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal_shard_store.errors import DamagedManifest
from shoal_shard_store.manifest import (
    BlobRef,
    canonical_bytes,
    facts_of,
    manifest_bytes,
    plan_shards,
)
from shoal_shard_store.manifest_check import (
    groups_wanted,
    layout_of,
    merged,
    missing_digests,
    read_manifest,
    spans,
    with_digests,
)
from shoal_shard_store.model_folder import read_folder

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def document(model_folder: Path) -> dict[str, Any]:
    """A draft of two layers."""
    source = read_folder(model_folder)
    facts = facts_of(source.config, [tensor.name for tensor in source.tensors])
    plan = plan_shards(source.tensors, facts.layer_count, 1 << 20)
    segments = [segment for group in plan.groups for segment in group.segments]
    blank = dict.fromkeys(segments, "")
    shards = [BlobRef("", segment.size_bytes) for segment in segments]
    files = {"config.json": BlobRef("a" * 64, 10)}
    raw = manifest_bytes("tiny", facts, files, shards, plan, blank)
    return read_manifest(raw, "tiny")


def group(document: dict[str, Any], index: int) -> dict[str, Any]:
    found: dict[str, Any] = document["groups"][index]
    return found


LIES: dict[str, Change] = {
    "another format": lambda d: d.update(format=2),
    "another model": lambda d: d.update(model="other"),
    "a file outside": lambda d: d["files"].update({"../x": d["files"]["config.json"]}),
    "a file of code": lambda d: d["files"].update({"evil.py": d["files"]["config.json"]}),
    "a file without digest": lambda d: d["files"]["config.json"].update(digest=""),
    "a digest that is a path": lambda d: d["shards"][0].update(digest="../../etc/passwd"),
    "a size below nothing": lambda d: d["shards"][0].update(size_bytes=-1),
    "a size of yes": lambda d: d["shards"][0].update(size_bytes=True),
    "a size beyond bounds": lambda d: d["files"]["config.json"].update(size_bytes=1 << 60),
    "too many layers": lambda d: d.update(layer_count=1 << 30),
    "layers that are missing": lambda d: d["groups"].pop(1),
    "layers in another order": lambda d: d["groups"].reverse(),
    "a group without bytes": lambda d: group(d, 1).update(segments=[]),
    "a shard that is not there": lambda d: group(d, 1)["segments"][0].update(shard=99),
    "a shard counted from behind": lambda d: group(d, 1)["segments"][0].update(shard=-1),
    "an offset in the middle": lambda d: group(d, 1)["segments"][0].update(offset_bytes=1),
    "a shard larger than its parts": lambda d: d["shards"][1].update(size_bytes=1000),
    "a tensor over another": lambda d: group(d, 1)["segments"][0]["tensors"][1].update(
        offset_bytes=0
    ),
    "a tensor without size": lambda d: group(d, 1)["segments"][0]["tensors"][0].pop("size_bytes"),
    "nothing": lambda d: d.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(document: dict[str, Any], lie: str) -> None:
    told = copy.deepcopy(document)
    LIES[lie](told)
    with pytest.raises(DamagedManifest, match="the manifest of 'tiny' is refused"):
        read_manifest(canonical_bytes(told), "tiny")


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(DamagedManifest):
        read_manifest(raw, "tiny")


def test_only_the_one_spelling_of_a_manifest_is_taken(document: dict[str, Any]) -> None:
    with pytest.raises(DamagedManifest, match="one order"):
        read_manifest(json.dumps(document, indent=1).encode(), "tiny")


def test_drafts_complete_one_another(document: dict[str, Any]) -> None:
    left = with_digests(document, {0: "0" * 64, 1: "1" * 64})
    right = with_digests(document, {2: "2" * 64, 3: "3" * 64})
    assert missing_digests(left) == ["layer.1", "head"]
    whole = merged(left, right)
    assert not missing_digests(whole)
    assert canonical_bytes(whole) == canonical_bytes(merged(right, left))
    assert {layout_of(each) for each in (document, left, right, whole)} == {layout_of(whole)}
    assert read_manifest(canonical_bytes(whole), "tiny") == whole


def test_a_draft_that_contradicts_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(DamagedManifest, match="contradicts the digests"):
        merged(with_digests(document, {0: "0" * 64}), with_digests(document, {0: "f" * 64}))


def test_weights_from_two_places_have_two_layouts(document: dict[str, Any]) -> None:
    other = {**document, "source": {"origin": "acme/finetune", "files": {}}}
    assert layout_of(other) != layout_of(document)


@pytest.mark.parametrize(
    ("layers", "is_tied", "expected"),
    [
        ([0], False, ["embed", "layer.0"]),
        ([1], False, ["layer.1", "head"]),
        ([1], True, ["embed", "layer.1", "head"]),
        (None, False, ["embed", "layer.0", "layer.1", "head"]),
    ],
)
def test_ends_come_with_the_layers_beside_them(
    document: dict[str, Any], layers: list[int] | None, is_tied: bool, expected: list[str]
) -> None:
    assert groups_wanted({**document, "tie_embeddings": is_tied}, layers) == expected


def test_spans_are_half_open_and_merged() -> None:
    assert spans([5, 0, 1, 2, 7, 6]) == [(0, 3), (5, 8)]
    assert spans([]) == []
