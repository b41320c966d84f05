"""Settings of the p2p-bridge."""

from __future__ import annotations

from shoal_common.settings import ServiceSettings


class Settings(ServiceSettings, service="p2p_bridge"):
    """What every service has; its own options come with its rooms."""
