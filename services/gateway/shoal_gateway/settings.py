"""Settings of the gateway: `SHOAL_GATEWAY_*`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shoal_common.settings import AlsoReads, ServiceSettings


class Settings(ServiceSettings, service="gateway"):
    """Where the public API listens, whom it asks, and what it fills in."""

    listen_host: str = "127.0.0.1"
    """Host name or IP address of the public HTTP server."""
    listen_port: int = Field(default=8800, ge=0, le=65535)
    """Port of the public HTTP server; 0 takes a free one."""
    router_address: str = "127.0.0.1:7002"
    """Address of the router, `host:port` or `unix:/path`."""
    shard_store_address: str = "127.0.0.1:7003"
    """Address of the shard store, for tokenisers and templates."""
    redis_url: Annotated[str, AlsoReads("REDIS_URL")] = ""
    """Redis that replicas share: stored responses, rate limits; empty keeps limits local."""
    database_url: Annotated[SecretStr, AlsoReads("DATABASE_URL")] = SecretStr("")
    """SQL database of named keys and providers' keys; empty: SQLite in `<data_dir>/gateway.db`."""
    api_key: SecretStr = SecretStr("")
    """Key that clients show; empty takes the one in `<data_dir>/api_key`, made on first run."""
    default_model: str = Field(default="", max_length=256)
    """Model of requests that name none, or `auto`; empty takes the first that is ready."""
    default_temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature of requests that name none; unset leaves it to the model."""
    default_top_p: float | None = Field(default=None, ge=0, le=1)
    """Nucleus threshold of requests that name none; unset leaves it to the model."""
    default_top_k: int | None = Field(default=None, ge=0)
    """Candidates kept where a request names no number; 0 keeps all; unset: the model's value."""
    default_min_p: float | None = Field(default=None, ge=0, le=1)
    """Least share of the likeliest token's probability, where a request names none."""
    default_presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Presence penalty of requests that name none."""
    default_repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    """Repetition penalty of requests that name none; unset leaves it to the model."""
    default_max_tokens: int = Field(default=2048, ge=1, le=32768)
    """Tokens of an answer where the request names no limit."""
    strict_compat: bool = False
    """Refuse requests with fields that the API does not know."""
    idle_timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds without a token after which an answer is given up; its length has no limit."""
    queue_timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds a request may wait for its turn."""
    replan_timeout_s: float = Field(default=1.0, ge=0, le=60)
    """Seconds to wait for other workers when one is lost during an answer."""
    attempts_max: int = Field(default=3, ge=1, le=16)
    """Pipelines tried for one request."""
    call_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a single question to router or shard store may take."""
    keep_alive_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds of silence after which a stream carries a comment, so that proxies keep it open."""
    template_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds a model's chat template may run."""
    template_workers: int = Field(default=2, ge=1, le=16)
    """Processes that run chat templates, at most."""
