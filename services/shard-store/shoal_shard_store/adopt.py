"""Digests that other stores learned: drafts become manifests.

Two stores that fetched different layers of the same weights know different digests. Each takes the
other's in, until both have the whole manifest, which is the same to the byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from shoal.shard_store.v1.beat_pb2 import StoreBeat
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.errors import DamagedManifest
from shoal_shard_store.holdings import Held
from shoal_shard_store.manifest import canonical_bytes
from shoal_shard_store.manifest_check import layout_of, merged, missing_digests
from shoal_shard_store.neighbours import Neighbours

log = logging.getLogger(__name__)


Told = frozenset[tuple[str, int]]
"""Who knows how many digests of a model."""


def drafts_to_ask_for(held: Iterable[Held], beats: Iterable[StoreBeat]) -> dict[str, Told]:
    """Models of which only a draft is here and other stores know digests, with who does."""
    told: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for beat in beats:
        for holding in beat.holdings:
            if holding.digest_count:
                knows = told.setdefault((holding.model, holding.layout), set())
                knows.add((beat.store_id, holding.digest_count))
    return {
        each.model: frozenset(told[each.model, each.facts.layout])
        for each in held
        if not each.facts.stored.revision and (each.model, each.facts.layout) in told
    }


async def adopt(model: str, catalog: Catalog, neighbours: Neighbours) -> bool:
    """Take in what the other stores know of a draft; True when something was new."""
    offers = await neighbours.offers(model)
    stored = await asyncio.to_thread(catalog.best, model)
    if stored is None or stored.revision:
        return False
    before = document = stored.document()
    layout = layout_of(document)
    for offer in offers:
        if layout_of(offer.document) != layout:
            continue
        try:
            document = merged(document, offer.document)
        except DamagedManifest as err:
            extra = {"peer": offer.peer.address, "error": str(err)}
            log.warning("manifest of a neighbour refused", extra=extra)
    if document == before:
        return False
    is_whole = not missing_digests(document)
    put = catalog.put_acquired if is_whole else catalog.put_draft
    await asyncio.to_thread(put, model, canonical_bytes(document))
    if is_whole:
        log.info("manifest is whole", extra={"model": model})
    return True
