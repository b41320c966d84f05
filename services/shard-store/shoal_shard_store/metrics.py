"""What the shard-store counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shoal_common.metrics import RequestMetrics, counter, gauge

_SERVICE = "shard_store"


class Metrics:
    """Metric objects of one process, on its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = RequestMetrics(registry, _SERVICE)
        self.bytes_served = counter(registry, _SERVICE, "served_bytes", "Blob bytes sent.")
        self.blobs_corrupt = counter(
            registry, _SERVICE, "corrupt_reads", "Reads refused because the blob is in quarantine."
        )
        self.announcements = counter(
            registry, _SERVICE, "announcements", "Announcements by outcome.", ("outcome",)
        )
        self.imports_open = gauge(
            registry, _SERVICE, "imports_open", "Imports that run or wait for their turn."
        )
        self.bytes_fetched = counter(
            registry, _SERVICE, "fetched_bytes", "Bytes of shards that arrived.", ("source",)
        )
        self.shards_damaged = counter(
            registry, _SERVICE, "damaged_shards", "Shards that arrived with another digest."
        )
        self.downloads_open = gauge(
            registry, _SERVICE, "downloads_open", "Downloads that run or wait."
        )
        self.groups_pruned = counter(
            registry, _SERVICE, "pruned_groups", "Groups removed because enough others hold them."
        )
