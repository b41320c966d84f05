"""Owns: the router's options. The only file of the service that sees the environment."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shoal_common.settings import AlsoReads, ServiceSettings

TierName = Literal["bronze", "silver", "gold", "platinum"]


class Settings(ServiceSettings, service="router"):
    """Options of the router, `SHOAL_ROUTER_*`."""

    heartbeat_timeout_s: float = Field(default=3.0, gt=0, le=600)
    """A worker silent for longer is left out of new plans."""
    forget_after_s: float = Field(default=60.0, gt=0, le=86400)
    """A worker silent for longer is no longer shown as part of the fleet."""
    suspect_s: float = Field(default=3.0, ge=0, le=600)
    """An engine that a driver has lost comes back with a heartbeat this much later, or more."""
    node_count_max: int = Field(default=1024, ge=1, le=65536)
    """Workers remembered at most; beats of further ones are refused and counted."""
    pipelines_per_model: int = Field(default=16, ge=1, le=64)
    """Pipelines kept per model at most; they may share engines."""
    partial_ranges: bool = True
    """A stage may use a part of the layers that a worker holds, so that overlapping ranges join."""
    flow_interval_s: float = Field(default=5.0, gt=0, le=3600)
    """How often pipelines are looked for again while measured times move."""
    spread_count: int = Field(default=8, ge=1, le=65536)
    """A worker with so many requests more than its share gets no further ones, ..."""
    spread_factor: float = Field(default=1.5, ge=1, le=100)
    """... if that is also so many times its share."""
    row_cost: float = Field(default=0.125, ge=0, le=1)
    """What one more sequence in a batch adds to a decode step, in steps of a single one."""
    prefix_blocks_max: int = Field(default=500_000, ge=0, le=100_000_000)
    """Blocks of held prefixes that are remembered, about 150 bytes each; 0 ignores prefixes."""
    sessions_max: int = Field(default=100_000, ge=0, le=10_000_000)
    """Sessions whose pipeline is remembered at most."""
    session_ttl_s: float = Field(default=3600.0, gt=0, le=30 * 86400)
    """Seconds without a request after which a session may go anywhere."""
    redis_url: Annotated[str, AlsoReads("REDIS_URL")] = ""
    """Redis that keeps sessions over a restart; empty: they are forgotten then."""
    in_flight_max: int = Field(default=32, ge=1, le=65536)
    """Plans that one engine carries at once, or fewer if it runs fewer; further requests wait."""
    waiting_max: int = Field(default=512, ge=0, le=65536)
    """Requests that wait at most, over all models; further ones are refused."""
    max_concurrent_requests: int = Field(default=0, ge=0, le=65536)
    """Requests of one gold tenant that run at once; bronze has a quarter of it, silver half,
    platinum twice. 0: shares of what the pipelines carry, which bind only while others want the
    slots, so that no slot stays free."""
    default_tier: TierName = "gold"
    """Tier of tenants that `tenant_tiers` does not name."""
    tenant_tiers: dict[str, TierName] = Field(default_factory=dict)
    """Tiers by tenant, as a JSON object: {"tenant": "bronze"}."""
    guest_tenants: tuple[str, ...] = ()
    """Tenants outside the own pool, as a JSON list; they go after it. A * at the end of one stands
    for any ending."""
    plan_wait_s: float = Field(default=0.0, ge=0, le=3600)
    """How long a request waits for missing layers to appear before it fails; 0 fails at once."""
    open_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Time in which a plan stream must say what it wants."""
    announce_timeout_s: float = Field(default=7.0, gt=0, le=600)
    """A model not announced for longer by its shard-store cannot be loaded any more."""
    load_wait_s: float = Field(default=180.0, gt=0, le=3600)
    """How long requests wait for a model that is loaded because they ask for it."""
    load_retry_s: float = Field(default=15.0, gt=0, le=3600)
    """A model that could not be loaded is not tried again for so long."""
    load_call_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Time in which a worker must take the order to load."""
    load_overhead_mb: int = Field(default=256, ge=0)
    """Memory in MiB that an engine takes besides its weights, where a worker is chosen."""
    load_kv_tokens: int = Field(default=2048, ge=0)
    """Tokens whose KV an engine must have room for, where a worker is chosen."""
    tick_s: float = Field(default=0.25, gt=0, le=10)
    """How often the fleet is looked at while no beat arrives."""
    rebalance: bool = True
    """Let the router move layers between workers where that makes busy models faster."""
    rebalance_tick_s: float = Field(default=10.0, gt=0, le=3600)
    """How often the placement of every model is looked at."""
    rebalance_ticks: int = Field(default=3, ge=3, le=1000)
    """Looks in a row that must want the same before a layer moves."""
    rebalance_gain: float = Field(default=0.2, gt=0, le=100)
    """A placement must be better by this share before layers move for it."""
    rebalance_horizon_s: float = Field(default=600.0, gt=0, le=86400)
    """Time in which a better placement must pay for the loading."""
    rebalance_cooldown_s: float = Field(default=300.0, ge=0, le=86400)
    """Rest of a model after a move, unless layers of it are missing."""
    rebalance_min_replicas: int = Field(default=2, ge=1, le=64)
    """Engines that must hold a layer before another one may leave as superfluous."""
    rebalance_drain_s: float = Field(default=60.0, ge=0, le=3600)
    """Time for what runs on layers that are to leave."""
    layer_time_us: int = Field(default=2000, ge=1)
    """Assumed time of one layer and step where no engine of the model has measured any."""
    link_us: int = Field(default=1000, ge=0)
    """Assumed cost of a hop between two nodes."""
    local_link_us: int = Field(default=200, ge=0)
    """Assumed cost of a hop between two engines of one node or machine."""
    far_link_us: int = Field(default=40_000, ge=0)
    """Assumed cost of a hop between two regions."""
    visit_us: int = Field(default=50, ge=0)
    """Assumed time of an engine itself for taking a step in and handing it on."""

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.forget_after_s < self.heartbeat_timeout_s:
            raise ValueError("forget_after_s must not be below heartbeat_timeout_s")
        return self
