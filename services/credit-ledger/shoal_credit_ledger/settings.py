"""Settings of the credit-ledger."""

from __future__ import annotations

from shoal_common.settings import ServiceSettings


class Settings(ServiceSettings, service="credit_ledger"):
    """What every service has; its own options come with its rooms."""
