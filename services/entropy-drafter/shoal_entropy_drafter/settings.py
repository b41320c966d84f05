"""Settings of the entropy-drafter."""

from __future__ import annotations

from shoal_common.settings import ServiceSettings


class Settings(ServiceSettings, service="entropy_drafter"):
    """What every service has; its own options come with its rooms."""
