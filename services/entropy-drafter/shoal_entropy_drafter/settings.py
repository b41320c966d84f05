"""Settings of the entropy-drafter: with what it drafts, how it judges, what it keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from shoal_common.settings import AlsoReads, EnvName, ExpandedPath, ServiceSettings


class Settings(ServiceSettings, service="entropy_drafter"):
    """The gate's numbers belong to one model and one number of candidates."""

    router_address: str = "127.0.0.1:7002"
    """Address of the router, `host:port` or `unix:/path`, for drafts by a fleet model."""
    drafter_provider: Literal["fleet", "openai", "none"] = "fleet"
    """Who drafts: a model of the fleet, an OpenAI-compatible upstream, or nobody."""
    drafter_base_url: str = Field(default="https://api.openai.com/v1", pattern="^https?://")
    """Where the upstream's API begins."""
    drafter_model: str = Field(default="drafter", max_length=256)
    """Model that drafts; an upstream must support `logprobs` and `top_logprobs`."""
    drafter_api_key: SecretStr = SecretStr("")
    """Key for the upstream; empty takes `openai_api_key` where the upstream is OpenAI itself."""
    drafter_api_key_file: ExpandedPath | None = None
    """File with that key, read when `drafter_api_key` is empty."""
    openai_api_key: Annotated[SecretStr, EnvName("OPENAI_API_KEY")] = SecretStr("")
    """Key that is shown to OpenAI and to no other upstream."""
    drafter_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a whole draft may take; then the request is escalated. Less than the gateway's
    `heavyweight_timeout_s`."""
    profile: Literal["shoal", "published"] = "shoal"
    """Where the five numbers below come from when unset: calibrated for the demo models, or those
    once published for gpt-4.1-nano: 2.0 bits, 10, 10, 5 candidates, 0.8."""
    threshold_bits: float | None = Field(default=None, gt=0)
    """Windowed entropy above which a draft is given up; with statistic `margin` a share."""
    window_size: int | None = Field(default=None, ge=1, le=1024)
    """Tokens of the sliding window."""
    early_exit_count: int | None = Field(default=None, ge=1, le=1024)
    """First tokens that are judged together before anything leaves."""
    top_logprobs: int | None = Field(default=None, ge=2, le=20)
    """Candidates per token; k of them can show at most log2 k bits."""
    soft_threshold_mult: float | None = Field(default=None, gt=0, le=1)
    """Share of the threshold above which the heavyweight starts beside the draft."""
    calibrated_for: str = ""
    """Model that `threshold_bits` was measured with; another drafter is then refused."""
    statistic: Literal["mean", "max", "margin"] = "mean"
    """What is compared over the window: mean or largest entropy, or 1 - (p1 - p2) on average."""
    entropy_estimate: Literal["renormalised", "lower", "upper"] = "renormalised"
    """Entropy of the candidates alone, or a bound that counts the mass beyond them."""
    speculative_enabled: bool = True
    """Start the heavyweight beside a doubtful draft; otherwise strictly one after the other."""
    cache_enabled: bool = True
    """Keep accepted answers and give them to the same question asked again."""
    cache_similarity_threshold: float = Field(default=0.95, gt=0, le=1)
    """Least cosine between two questions that may share an answer; words are compared besides."""
    cache_ttl_s: int = Field(default=3600, ge=1, le=366 * 86400)
    """Seconds an answer is kept."""
    cache_temperature_max: float = Field(default=0.7, ge=0, le=2)
    """Answers drawn at a higher temperature are not kept."""
    cache_turns_max: int = Field(default=1, ge=1, le=64)
    """User messages that a conversation may have to be looked up and kept; earlier ones must be
    equal to the letter."""
    cache_heavyweight: bool = False
    """Keep what the heavyweight answered, too."""
    cache_no_store_tenants: tuple[str, ...] = ()
    """Tenants whose questions are never looked up nor kept."""
    cache_entries_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """Answers kept at once; the oldest leave first."""
    cache_timeout_ms: int = Field(default=50, ge=1, le=10_000)
    """Longest that a look into the cache may delay a draft."""
    redis_url: Annotated[str, AlsoReads("REDIS_URL")] = ""
    """Redis of the kept answers; empty turns the cache off."""
    qdrant_url: Annotated[str, AlsoReads("QDRANT_URL")] = ""
    """Qdrant server of the questions' vectors; empty keeps them in `<data_dir>/qdrant`."""
    qdrant_api_key: SecretStr = SecretStr("")
    """Key for that server."""
    qdrant_collection: str = Field(default="shoal_answers", pattern="^[A-Za-z0-9_-]{1,128}$")
    """Collection of the vectors, made at the first start."""
    embedding_provider: Literal["local", "openai"] = "local"
    """Who turns texts into vectors: the model that is installed here, or an upstream."""
    embedding_model: str = Field(default="all-MiniLM-L6-v2", max_length=256)
    """Its name, also on `/v1/embeddings`. The local model reads the first 256 tokens of a text."""
    embedding_dimensions: int = Field(default=384, ge=1, le=65536)
    """Numbers of each vector; must be the model's, and the collection's."""
    embedding_base_url: str = Field(default="https://api.openai.com/v1", pattern="^https?://")
    """Where the embedding upstream's API begins."""
    embedding_api_key: SecretStr = SecretStr("")
    """Key for the embedding upstream; empty takes `openai_api_key` where that is OpenAI itself."""
    embedding_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that embedding one request's texts may take."""
    embedding_threads: int = Field(default=1, ge=1, le=64)
    """Threads of the local embedding model."""
    answer_concurrency: int = Field(default=256, ge=1, le=65536)
    """Requests answered at once; more are refused, and the heavyweight answers them."""
    metrics_enabled: bool = True
    """Count what happens; off: nothing is counted and `/metrics` is empty."""
