"""What the shard-store can be told; the only file that sees the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from shoal_common.settings import AlsoReads, ExpandedPath, ServiceSettings


class Settings(ServiceSettings, service="shard_store"):
    """Settings of one shard-store process."""

    shard_size_mb: int = Field(default=512, ge=64, le=2048)
    """Size in MiB at which a shard is closed and the next one begun; tensors are never cut."""
    import_roots: tuple[ExpandedPath, ...] = ()
    """Folders below which `ImportModel` may read; empty refuses every folder but `import_paths`."""
    import_paths: tuple[ExpandedPath, ...] = ()
    """Model folders that are imported when the service starts."""
    announce_interval_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds between two announcements of what can be loaded from here."""

    hub_endpoint: Annotated[str, AlsoReads("HF_ENDPOINT")] = "https://huggingface.co"
    """Hub that `owner/repo` is fetched from; any server with its API."""
    hub_token: Annotated[SecretStr, AlsoReads("HF_TOKEN")] = SecretStr("")
    """Token for private and gated repositories; it is shown to the hub itself and nobody else."""
    hub_hosts: tuple[str, ...] = ("huggingface.co", "hf.co")
    """Domains, with those below them, that a hub or URL may redirect to, besides its own host."""
    url_hosts: tuple[str, ...] = ()
    """Hosts whose plain URLs may be fetched from; empty refuses every URL."""
    offline: bool = False
    """Fetch from other shard-stores only, never from a hub or URL."""
    neighbours: tuple[str, ...] = ()
    """Addresses of other shard-stores, besides those that are heard on NATS."""
    advertise_address: str = ""
    """Address at which other shard-stores reach this one; empty: the one it listens on."""
    max_disk_mb: int = Field(default=50_000, ge=0)
    """Most MiB that models and unfinished downloads take; 0: as much as the disk has."""
    max_concurrent_downloads: int = Field(default=3, ge=1, le=64)
    """Shards that are fetched at the same time, over all models."""
    download_retries: int = Field(default=3, ge=0, le=20)
    """Times a shard that makes no progress is tried again before its download fails."""
    prune_enabled: bool = True
    """Make room for a download by removing what enough other shard-stores hold."""
    prune_min_replicas: int = Field(default=2, ge=1, le=100)
    """Other shard-stores that must hold a group before it may be pruned here."""
    prune_cooldown_s: float = Field(default=300.0, ge=0, le=86400)
    """Seconds between two groups of one model being pruned without having been asked for."""
    prune_holder_load_max: int = Field(default=3, ge=0, le=10_000)
    """A store with more reads under way does not count as one that holds a group."""

    @field_validator("hub_endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @property
    def max_disk_bytes(self) -> int:
        return self.max_disk_mb << 20

    @property
    def shard_size_bytes(self) -> int:
        return self.shard_size_mb << 20

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Every folder that may be imported or holds folders that may."""
        return (*self.import_roots, *self.import_paths)
