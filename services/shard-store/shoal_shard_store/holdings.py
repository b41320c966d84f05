"""What is on this disk of each model, and what of it the fleet is told.

Owns the reading of manifests for that: a revision's facts never change, so each is read once.
Blocking: call it from a thread, one call at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.shard_store.v1 import announcement_pb2, beat_pb2
from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog, StoredManifest
from shoal_shard_store.manifest import BlobRef
from shoal_shard_store.manifest_check import layers_in, layout_of, missing_digests, shards_of, spans

log = logging.getLogger(__name__)


def groups_held(document: Mapping[str, Any], blobs: BlobStore) -> frozenset[str]:
    """Groups of which every byte is on this disk."""
    has = [
        bool(shard["digest"]) and blobs.has(BlobRef(shard["digest"], shard["size_bytes"]))
        for shard in document["shards"]
    ]
    return frozenset(
        group for group, indexes in shards_of(document).items() if all(has[i] for i in indexes)
    )


def files_held(document: Mapping[str, Any], blobs: BlobStore) -> bool:
    """Whether all of the small files are on this disk."""
    refs = document["files"].values()
    return all(blobs.has(BlobRef(ref["digest"], ref["size_bytes"])) for ref in refs)


def announcement_of(stored: StoredManifest, store_id: str) -> announcement_pb2.ModelAnnouncement:
    """What the fleet must know of a model to choose a machine for it."""
    document = stored.document()
    sizes = {
        group["name"]: sum(segment["size_bytes"] for segment in group["segments"])
        for group in document["groups"]
    }
    segments = [segment for group in document["groups"] for segment in group["segments"]]
    tensors = [tensor for segment in segments for tensor in segment["tensors"]]
    layers = [size for name, size in sizes.items() if name.startswith("layer.")]
    return announcement_pb2.ModelAnnouncement(
        store_id=store_id,
        model=stored.model,
        revision=stored.revision,
        layer_count=document["layer_count"],
        context_length=document["context_length"],
        weight_bytes=sum(sizes.values()),
        parameter_count=sum(math.prod(tensor["shape"]) for tensor in tensors),
        layer_bytes=max(layers),
        embed_bytes=sizes.get("embed", 0),
        head_bytes=sizes.get("head", 0),
        ties_embeddings=document["tie_embeddings"],
        width=document.get("width", 0),
        kv_width=document.get("kv_width", 0),
    )


@dataclass(frozen=True)
class Facts:
    """What never changes of one manifest."""

    stored: StoredManifest
    document: Mapping[str, Any]
    layout: str
    digest_count: int
    announcement: announcement_pb2.ModelAnnouncement | None
    """None for a draft, which no worker can load."""


@dataclass(frozen=True)
class Held:
    """A model and what is here of it."""

    facts: Facts
    groups: frozenset[str]
    has_files: bool

    @property
    def model(self) -> str:
        return self.facts.stored.model

    @property
    def is_complete(self) -> bool:
        return self.has_files and len(self.groups) == len(self.facts.document["groups"])

    def message(self) -> beat_pb2.StoreHolding:
        """As other stores are told."""
        return beat_pb2.StoreHolding(
            model=self.model,
            revision=self.facts.stored.revision,
            layout=self.facts.layout,
            layers_held=span_messages(layers_in(self.groups)),
            holds_embed="embed" in self.groups,
            holds_head="head" in self.groups,
            digest_count=self.facts.digest_count,
        )


def span_messages(layers: Iterable[int]) -> list[pb.LayerSpan]:
    """Half-open ranges, as messages."""
    return [pb.LayerSpan(layer_start=start, layer_stop=stop) for start, stop in spans(layers)]


class Shelf:
    """Everything that is stored."""

    def __init__(self, blobs: BlobStore, catalog: Catalog, store_id: str) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._store_id = store_id
        self._known: dict[bytes, Facts] = {}

    def held(self) -> list[Held]:
        """Every model, by name, with what is here of it."""
        known, self._known = self._known, {}
        found = []
        for model in sorted({*self._catalog.models(), *self._catalog.drafts()}):
            stored = self._catalog.best(model)
            if stored is None:  # Removed meanwhile.
                continue
            try:
                facts = known.get(stored.manifest_json) or self._read(stored)
            except (ValueError, KeyError, TypeError):
                # One that is damaged must not hide the others.
                log.warning("damaged manifest left out", extra={"model": model})
                continue
            self._known[stored.manifest_json] = facts
            document = facts.document
            has_files = files_held(document, self._blobs)
            found.append(Held(facts, groups_held(document, self._blobs), has_files))
        return found

    def _read(self, stored: StoredManifest) -> Facts:
        document = stored.document()
        is_draft = bool(missing_digests(document))
        return Facts(
            stored,
            document,
            layout_of(document),
            sum(bool(shard["digest"]) for shard in document["shards"]),
            None if is_draft else announcement_of(stored, self._store_id),
        )


def loadable(
    held: Iterable[Held], beats: Iterable[beat_pb2.StoreBeat]
) -> list[announcement_pb2.ModelAnnouncement]:
    """Models that a worker can load from here: what is missing, another store has."""
    elsewhere: dict[tuple[str, str], set[str]] = {}
    for beat in beats:
        for holding in beat.holdings:
            groups = elsewhere.setdefault((holding.model, holding.layout), set())
            for span in holding.layers_held:
                groups |= {f"layer.{layer}" for layer in range(span.layer_start, span.layer_stop)}
            groups |= {"embed"} if holding.holds_embed else set()
            groups |= {"head"} if holding.holds_head else set()
    found = []
    for each in held:
        others = elsewhere.get((each.model, each.facts.layout), set())
        needed = {group["name"] for group in each.facts.document["groups"]}
        is_reachable = each.has_files and needed <= {*each.groups, *others}
        if each.facts.announcement is not None and is_reachable:
            found.append(each.facts.announcement)
    return found
