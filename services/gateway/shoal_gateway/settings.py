"""Settings of the gateway: `SHOAL_GATEWAY_*`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from shoal_common.settings import AlsoReads, ExpandedPath, ServiceSettings

_ROUTE_ROOTS = ("", "api", "health", "mcp", "relay", "v1")


class CloudModel(BaseModel):
    """One model that somebody else hosts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_url: str = Field(pattern="^https?://")
    """Where its API begins, for example `https://api.deepseek.com/v1`."""
    auth_env: str = ""
    """Variable with the key, in the environment or in `.env`; empty sends none."""
    ctx_size: int = Field(default=0, ge=0)
    """Tokens of its context; 0: unknown."""
    type: Literal["openai", "anthropic"] = "openai"
    """Which API it speaks."""


class Settings(ServiceSettings, service="gateway"):
    """Where the public API listens, whom it asks, and what it fills in."""

    listen_host: str = "127.0.0.1"
    """Host name or IP address of the public HTTP server."""
    listen_port: int = Field(default=8800, ge=0, le=65535)
    """Port of the public HTTP server; 0 takes a free one."""
    processes: int = Field(default=1, ge=1, le=64)
    """Processes that share the port; without Redis each counts rates for itself, and MCP sessions
    are not kept."""
    reuse_port: bool = False
    """Let other processes of the same user listen on the port too (SO_REUSEPORT)."""
    metrics_address: str = ""
    """Side port whose `/metrics` the public port repeats; set for each of several processes."""
    router_address: str = "127.0.0.1:7002"
    """Address of the router, `host:port` or `unix:/path`."""
    shard_store_address: str = "127.0.0.1:7003"
    """Address of the shard store, for tokenisers and templates."""
    drafter_address: str = ""
    """Address of the entropy-drafter; empty: no cascade, no kept answers, no embeddings of ours."""
    cascade_model: str = Field(default="cascade", max_length=256)
    """Model name under which the drafter answers what it is sure of and the heavyweight the rest;
    empty: none."""
    heavyweight_model: str = Field(default="heavyweight", max_length=256)
    """Model that takes over: of the fleet, of a provider, or of `cloud_models`."""
    heavyweight_timeout_s: float = Field(default=60.0, gt=0, le=86400)
    """Seconds that it may be silent. More than the drafter's `drafter_timeout_s`, less than
    `idle_timeout_s`, or the gateway does not start."""
    stream_mode: Literal["hold", "continue"] = "continue"
    """Streams of the cascade: `hold` sends nothing before the first `early_exit_count` tokens
    passed, and then lets the draft stand; `continue` sends what is settled, and the heavyweight
    goes on behind it (both of the fleet, one tokenizer; otherwise all is held until accepted)."""
    cascade_audit_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the cascade's requests that both models answer in full afterwards, to measure
    precision and recall of escalations; costs tokens."""
    metrics_enabled: bool = True
    """Count and serve metrics; off: nothing of the cascade is counted, no `/metrics`."""
    metrics_path: str = Field(default="/metrics", pattern="^/[A-Za-z0-9/_.-]*$")
    """Path of the metrics on the public port."""
    redis_url: Annotated[str, AlsoReads("REDIS_URL")] = ""
    """Redis that replicas share: stored responses, rate limits; empty keeps limits local."""
    response_ttl_s: float = Field(default=30 * 86400.0, gt=0, le=366 * 86400)
    """Seconds a response of the responses API is kept in Redis."""
    response_size_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    """Bytes of input, and of events, that one stored response may have."""
    response_background_max: int = Field(default=64, ge=0, le=10_000)
    """Responses that one gateway answers in the background at once."""
    response_alive_s: float = Field(default=15.0, ge=0.1, le=3600)
    """Seconds after which a background response counts as failed when its gateway is silent."""
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
    tool_mode: Literal["auto", "hermes", "llama3", "mistral", "json", "off"] = "auto"
    """How the fleet's models write tool calls: by their template, by name, or `off`: as text."""
    reasoning_mode: Literal["auto", "preserve", "off"] = "auto"
    """Thoughts of the fleet's models: `auto` apart, `preserve` in the text, `off` left out."""
    thinking_supported: bool = False
    """Models whose template says nothing of thinking levels take `thinking_levels`."""
    thinking_levels: tuple[
        Literal["on", "off", "minimal", "low", "medium", "high", "xhigh"], ...
    ] = ("on", "off")
    """Levels that requests may ask for, where `thinking_supported` declares them."""
    privacy: Literal["local", "pool", "lan", "public"] = "public"
    """Machines that may see a prompt where `x-shoal-privacy` does not say: this one, the fleet
    owner's, the local network's, all. With any but `public` no provider is asked."""
    encrypted_pipeline: bool = False
    """First and last stage run on this machine where `x-shoal-boomerang` does not say: no other
    one sees text."""
    idle_timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds without a token after which an answer is given up; its length has no limit."""
    queue_timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds a request may wait for its turn."""
    stage_silence_s: float = Field(default=2.0, gt=0, le=600)
    """Seconds without a sign of life after which a worker counts as lost during an answer."""
    replan_timeout_s: float = Field(default=5.0, ge=0, le=60)
    """Seconds to wait for a word of the router when a worker is lost during an answer: another
    plan, or a place in the queue for one."""
    router_wait_s: float = Field(default=3.0, ge=0, le=60)
    """Seconds that a request for the fleet waits for a router that cannot be reached."""
    attempts_max: int = Field(default=3, ge=1, le=16)
    """Pipelines tried one after the other for one request, without any of them adding a token."""
    call_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a single question to router or shard store may take."""
    allow_image_urls: bool = False
    """Fetch images that requests name by http(s) URL, from public addresses only."""
    image_url_timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Seconds that all images of one request may take to come."""
    keep_alive_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds of silence after which a stream carries a comment, so that proxies keep it open."""
    mcp_concurrency: int = Field(default=4, ge=1, le=64)
    """Models that one call of an MCP tool asks at once."""
    mcp_sessions_max: int = Field(default=1000, ge=0, le=100_000)
    """MCP sessions at once; 0 keeps none, for replicas behind a balancer that does not stick."""
    mcp_session_idle_s: float = Field(default=1800.0, gt=0, le=86400)
    """Seconds without a request after which an MCP session is forgotten."""
    cloud_models: dict[str, CloudModel] = Field(default_factory=dict)
    """Models that others host, by name: JSON of `base_url`, `auth_env`, `ctx_size`, `type`."""
    cloud_fallback_url: str = Field(default="", pattern="^(https?://.*)?$")
    """OpenAI-compatible base URL that gets the models nobody here knows; empty refuses them."""
    cloud_fallback_key: SecretStr = SecretStr("")
    """Key for `cloud_fallback_url`."""
    provider_base_urls: dict[str, str] = Field(default_factory=dict)
    """Base URLs by provider instead of the published ones, for proxies: JSON."""
    provider_secret_file: ExpandedPath | None = None
    """File whose bytes seal stored provider keys; unset: `<data_dir>/provider_keys.key`."""
    provider_concurrency_max: int = Field(default=256, ge=1, le=65536)
    """Requests with one provider at once; more are refused with 429."""
    provider_connect_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds in which a provider must accept a connection."""
    max_upstream_response_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest answer taken from a provider: a whole body, or the content of a stream."""
    expose_upstream_errors: Literal["never", "admin", "always"] = "admin"
    """Who reads what a provider itself says when it refuses."""
    claude_subscription_enabled: bool = False
    """Answer for `claude-*` by the `claude` program of this machine and its subscription."""
    claude_binary: str = "claude"
    """Name or path of that program."""
    claude_oauth_token: Annotated[SecretStr, AlsoReads("CLAUDE_CODE_OAUTH_TOKEN")] = SecretStr("")
    """Its login; empty uses the one made with `HOME=<data_dir>/claude_home claude login`."""
    claude_default_model: str = ""
    """Model that program is asked for whatever the request says; empty takes the request's."""
    claude_concurrency: int = Field(default=3, ge=1, le=64)
    """Processes of that program at once; more requests are refused with 429."""
    claude_timeout_s: float = Field(default=300.0, gt=0, le=86400)
    """Seconds that one answer of that program may take."""
    template_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds a model's chat template may run."""
    template_workers: int = Field(default=2, ge=1, le=16)
    """Processes that run chat templates, at most."""
    rate_limit_rpm: int = Field(default=60, ge=0, le=1_000_000)
    """Requests per minute on /v1 and /mcp for each named key, and per address without a valid key;
    0: no limit."""
    rate_limit_house_rpm: int = Field(default=0, ge=0, le=1_000_000)
    """The same for the house's own key, whose holder could change it anyway; 0: no limit."""
    rate_limit_admin_rpm: int = Field(default=200, ge=0, le=1_000_000)
    """Requests per minute on /api/admin for each key, the house's too; 0: no limit."""
    rate_limit_relay_post_rpm: int = Field(default=50, ge=0, le=1_000_000)
    """POST requests per minute on /relay for each key, the house's too; 0: no limit."""
    max_concurrent_requests: int = Field(default=512, ge=1, le=100_000)
    """POST requests on /v1 and /mcp at once in this process; more are refused with 429."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (CIDR) whose X-Forwarded-For, or else Forwarded, is believed."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of the Host header that are answered, `*.name` for all below; empty: every name."""
    cors_origin: tuple[str, ...] = ()
    """Origins whose web pages may use the API, `*` for all; empty: none."""
    max_request_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3)
    """Largest body of a request."""
    json_depth_max: int = Field(default=100, ge=1, le=500)
    """Objects and arrays that a body may nest."""
    read_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds for a request's body, and one more for every 64 KiB that have come."""
    keepalive_timeout_s: float = Field(default=75.0, gt=0, le=86400)
    """Seconds a connection may stay without a complete request head, the first or the next."""
    unknown_field_policy: Literal["pass_through", "strip", "reject"] = "pass_through"
    """What becomes of fields that the API does not know: handed to a provider of the client's own
    dialect (a local model ignores them), left out, or refused."""
    warn_on_stripped_fields: bool = True
    """Log the names of fields that were left out."""
    observability_enabled: bool = True
    """Serve /relay/*: status, figures and the last requests, for keys with the scope observe."""
    observability_capture_body: bool = False
    """Keep what was asked and answered in the request history, for admin keys; never in logs."""
    request_history_limit: int = Field(default=100, ge=0, le=100_000)
    """Requests that the history holds."""
    probe_on_startup: bool = True
    """Ask the router at start whether it is there, and say so in the log."""
    strict_startup: bool = False
    """End at once when that question is not answered."""
    probe_timeout_s: float = Field(default=3.0, gt=0, le=600)
    """Seconds that the router gets to answer it."""

    @field_validator("metrics_path")
    @classmethod
    def _is_a_path_of_its_own(cls, value: str) -> str:
        """It is open to everybody, and must not open another."""
        first = value.strip("/").partition("/")[0]
        if first in _ROUTE_ROOTS:
            raise ValueError(f"'{value}' has routes already; choose another, such as /metrics")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            ip_network(entry, strict=False)
        return value

    @field_validator("cors_origin")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(entry.strip().lower().rstrip("/") for entry in value)


def found_variables(
    names: Iterable[str], data_dir: Path
) -> dict[str, tuple[str, Literal["environment", ".env"]]]:
    """Those of the variables that are set and not empty, each with where.

    The environment wins over `.env` in the data folder, and that over the working folder's.
    """
    files: dict[str, str | None] = {}
    for folder in (Path.cwd(), data_dir):
        files |= dotenv_values(folder / ".env", interpolate=False)
    sources: tuple[tuple[Mapping[str, str | None], Literal["environment", ".env"]], ...]
    sources = ((files, ".env"), (os.environ, "environment"))
    found: dict[str, tuple[str, Literal["environment", ".env"]]] = {}
    for name in names:
        for values, source in sources:
            if value := (values.get(name) or "").strip():
                found[name] = (value, source)
    return found


def search_path() -> str:
    """Where programs are looked for."""
    return os.environ.get("PATH", os.defpath)
