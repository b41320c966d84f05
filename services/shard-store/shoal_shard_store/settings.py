"""What the shard-store can be told; the only file that sees the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shoal_common.settings import ExpandedPath, ServiceSettings


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

    @property
    def shard_size_bytes(self) -> int:
        return self.shard_size_mb << 20

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Every folder that may be imported or holds folders that may."""
        return (*self.import_roots, *self.import_paths)
