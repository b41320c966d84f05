"""The gate with all its parts, out of settings."""

from __future__ import annotations

from redis import asyncio as redis

from shoal_common.clock import Clock
from shoal_gateway.access.budgets import Budgets
from shoal_gateway.access.callers import Callers
from shoal_gateway.access.gate import Gate, GateLimits
from shoal_gateway.access.key_store import KeyStore
from shoal_gateway.access.proxies import networks
from shoal_gateway.access.rates import LocalBuckets, make_buckets
from shoal_gateway.auth import HouseKey
from shoal_gateway.database import Database
from shoal_gateway.settings import Settings


def make_gate(
    settings: Settings,
    house_key: str,
    database: Database,
    shared: redis.Redis | None,
    clock: Clock,
) -> Gate:
    """A gate whose books are yet to be kept."""
    limits = GateLimits(
        api_rpm=settings.rate_limit_rpm,
        house_rpm=settings.rate_limit_house_rpm,
        admin_rpm=settings.rate_limit_admin_rpm,
        relay_post_rpm=settings.rate_limit_relay_post_rpm,
        in_flight_max=settings.max_concurrent_requests,
    )
    keys = KeyStore(database, clock)
    return Gate(
        keys=keys,
        callers=Callers(HouseKey(house_key), keys, clock),
        buckets=make_buckets(shared, clock),
        strangers=LocalBuckets(clock),
        budgets=Budgets(database, clock),
        limits=limits,
        allowed_hosts=settings.allowed_hosts,
        trusted_proxies=networks(settings.trusted_proxies),
    )
