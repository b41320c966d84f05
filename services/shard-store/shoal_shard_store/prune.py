"""Which groups may go to make room, and why the others stay.

Owns the decision (pure) and its effects. A group may go when enough other stores hold it, nobody
pinned it, nothing downloads its model, and its model was not pruned a moment ago. Among the stores
that hold a group the first few by BLAKE3 of node and group never prune it: stores that decide at
the same moment could otherwise all rely on one another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from shoal_common.clock import Clock
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.holdings import groups_held
from shoal_shard_store.manifest import blobs_of
from shoal_shard_store.manifest_check import layout_of, shards_of
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.neighbours import Neighbours
from shoal_shard_store.sources.peer import Offer

log = logging.getLogger(__name__)

EVERYTHING = "*"


@dataclass(frozen=True)
class PruneRules:
    """What must hold before a group may go."""

    min_replicas: int
    cooldown_s: float
    holder_load_max: int


@dataclass(frozen=True)
class HeldGroup:
    """A group on this disk. `holders` are the other nodes that have it and are not overloaded."""

    model: str
    group: str
    size_bytes: int
    holders: frozenset[str]
    is_pinned: bool = False
    is_downloading: bool = False
    pruned_ago_s: float = float("inf")


@dataclass(frozen=True)
class Verdict:
    """`kept_because` is empty for what goes."""

    held: HeldGroup
    kept_because: str


def decide(
    groups: Iterable[HeldGroup], node_id: str, rules: PruneRules, wanted_bytes: int
) -> list[Verdict]:
    """What goes until `wanted_bytes` are free (0: all that may), best replicated first."""
    verdicts: list[Verdict] = []
    freed_bytes = 0
    ordered = sorted(groups, key=lambda each: (-len(each.holders), -each.size_bytes, each.group))
    for held in ordered:
        reason = _kept_because(held, node_id, rules)
        if not reason and wanted_bytes and freed_bytes >= wanted_bytes:
            reason = "enough room was made"
        if not reason:
            freed_bytes += held.size_bytes
        verdicts.append(Verdict(held, reason))
    return verdicts


def _kept_because(held: HeldGroup, node_id: str, rules: PruneRules) -> str:
    if held.is_pinned:
        return "pinned"
    if held.is_downloading:
        return "its model is being downloaded"
    if len(held.holders) < rules.min_replicas:
        return f"{len(held.holders)} other stores hold it, {rules.min_replicas} must"
    ranked = sorted({*held.holders, node_id}, key=lambda node: _rank(node, held))
    if node_id in ranked[: rules.min_replicas]:
        return "this store is one of those that keep it"
    if held.pruned_ago_s < rules.cooldown_s:
        return f"its model was pruned {held.pruned_ago_s:.0f} s ago"
    return ""


def _rank(node_id: str, held: HeldGroup) -> bytes:
    return blake3(f"{node_id}\0{held.model}\0{held.group}".encode()).digest()


class Pruner:
    """Looks, decides, removes."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        neighbours: Neighbours,
        node_id: str,
        rules: PruneRules,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._neighbours = neighbours
        self._node_id = node_id
        self._rules = rules
        self._clock = clock
        self._metrics = metrics
        self._pruned_at_s: dict[str, float] = {}
        self._turn = asyncio.Lock()

    async def prune(
        self,
        model: str = "",
        wanted_bytes: int = 0,
        downloading: frozenset[str] = frozenset(),
        is_dry_run: bool = False,
    ) -> list[Verdict]:
        """Remove what may go, of one model or of all. Asks the other stores anew what they hold."""
        async with self._turn:
            names = [model] if model else await asyncio.to_thread(self._catalog.models)
            held: list[HeldGroup] = []
            for name in names:
                offers = await self._neighbours.offers(name)
                is_asked_for = bool(model)
                held += await asyncio.to_thread(
                    self._held, name, offers, name in downloading, is_asked_for
                )
            verdicts = decide(held, self._node_id, self._rules, wanted_bytes)
            gone = [verdict.held for verdict in verdicts if not verdict.kept_because]
            if gone and not is_dry_run:
                await asyncio.to_thread(self._remove, gone)
            return verdicts

    def _held(
        self, model: str, offers: Sequence[Offer], is_downloading: bool, is_asked_for: bool
    ) -> list[HeldGroup]:
        stored = self._catalog.get(model)
        document = stored.document()
        layout, pins = layout_of(document), self._catalog.pins(model)
        reachable = [
            offer
            for offer in offers
            if offer.node_id != self._node_id
            and offer.reads_open <= self._rules.holder_load_max
            and layout_of(offer.document) == layout
        ]
        ago_s = self._clock.monotonic() - self._pruned_at_s.get(model, float("-inf"))
        sizes = [shard["size_bytes"] for shard in document["shards"]]
        here = groups_held(document, self._blobs)
        return [
            HeldGroup(
                model,
                group,
                sum(sizes[index] for index in indexes),
                frozenset(each.node_id for each in reachable if group in each.groups_held),
                is_pinned=bool(pins & {group, EVERYTHING}),
                is_downloading=is_downloading,
                pruned_ago_s=float("inf") if is_asked_for else ago_s,
            )
            for group, indexes in shards_of(document).items()
            if group in here
        ]

    def _remove(self, gone: Sequence[HeldGroup]) -> None:
        for model in sorted({held.model for held in gone}):
            names = {held.group for held in gone if held.model == model}
            freed_bytes = remove_groups(self._blobs, self._catalog, model, names)
            self._pruned_at_s[model] = self._clock.monotonic()
            self._metrics.groups_pruned.inc(len(names))
            extra = {"model": model, "group_count": len(names), "freed_bytes": freed_bytes}
            log.info("groups pruned", extra=extra)


def remove_groups(blobs: BlobStore, catalog: Catalog, model: str, groups: set[str]) -> int:
    """Delete the blobs that those groups alone need; returns the bytes freed."""
    stored = catalog.best(model)
    if stored is None:  # Removed meanwhile.
        return 0
    document = stored.document()
    uses = _uses(catalog)
    owners: dict[int, set[str]] = {}
    for group, indexes in shards_of(document).items():
        for index in indexes:
            owners.setdefault(index, set()).add(group)
    # Shards that were cut before each group had its own hold several.
    digests = [document["shards"][index]["digest"] for index in owners if owners[index] <= groups]
    return sum(blobs.remove(digest) for digest in digests if digest and uses[digest] == 1)


def remove_model(blobs: BlobStore, catalog: Catalog, model: str) -> int:
    """Forget a model and delete the blobs that it alone needs; returns the bytes freed.

    Raises UnknownModel.
    """
    stored = catalog.best(model)
    documents = [stored.document()] if stored else []
    catalog.remove(model)
    left = _uses(catalog)
    digests = {digest for document in documents for digest in blobs_of(document) if digest}
    return sum(blobs.remove(digest) for digest in digests if not left[digest])


def _uses(catalog: Catalog) -> Counter[str]:
    """How often each digest is named by all models; unreadable manifests name nothing."""
    uses: Counter[str] = Counter()
    for model in {*catalog.models(), *catalog.drafts()}:
        stored = catalog.best(model)
        if stored is not None:
            uses.update(_named(stored.document()))
    return uses


def _named(document: Mapping[str, Any]) -> list[str]:
    refs = [*document["files"].values(), *document["shards"]]
    return [ref["digest"] for ref in refs if ref["digest"]]
