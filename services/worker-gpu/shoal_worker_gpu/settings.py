"""Settings of a worker; the agent hands them on to its engine children."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from shoal_common.settings import ServiceSettings


class Settings(ServiceSettings, service="worker_gpu"):
    """One machine's share of the fleet."""

    without_effect = MappingProxyType(
        {
            "max_batch_size": "continuous batching, bounded by max_running",
            "batch_timeout_ms": "continuous batching: no step waits for a batch to fill",
            "gpu_layers": "load, which names layers, and device: a worker sees its memory itself",
            "prefix_cache_max_entries": "the pool of KV blocks, bounded by kv_memory_mb",
        }
    )
    node_id: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9_-]*$")
    """Stable name of this worker; empty makes one and keeps it in the data folder."""
    load: str = ""
    """What to hold from the start: `model@start:stop` (half-open layers) or `model`, by commas."""
    shard_store_address: str = "127.0.0.1:7003"
    """Address of the shard-store that weights come from."""
    shared_blob_dir: Path | None = None
    """The shard-store's blob folder where this machine can read it: weights are not copied then."""
    engine_host: str = "127.0.0.1"
    """Address on which engine children listen; each takes a free port."""
    advertise_host: str = ""
    """Host name by which other machines reach the engine children; empty: `engine_host`."""
    device: str = "cpu"
    """Torch device: `cpu`, `cuda`, `cuda:1`."""
    cpu_fallback: bool = False
    """Load on the CPU, with a warning, what the device has no room for."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and activations; auto is float32 on a CPU."""
    cores: int = Field(default=0, ge=0, le=4096)
    """Cores this worker may use; 0 takes all that the process really owns."""
    threads: int = Field(default=0, ge=0, le=256)
    """Torch threads of each engine child; 0 shares the cores, and gives a small stage one."""
    quantization: Literal["auto", "none", "int8"] = "auto"
    """Number format of linear layers on a CPU; auto is int8 for models above 200 M parameters."""
    reach: Literal["pool", "lan", "public"] = "pool"
    """Whose this machine is: the fleet owner's, a neighbour's on the local network, anybody's."""
    memory_max_mb: int = Field(default=0, ge=0)
    """Memory that all engines together may take, in MiB; 0: what is free."""
    is_locked: bool = False
    """Keep what is loaded: the router changes nothing here, and nothing leaves for being idle."""
    kv_memory_mb: int = Field(default=0, ge=0)
    """Memory for KV blocks of each engine child, in MiB; 0 takes up to half of what is free."""
    block_size_tokens: int = Field(default=16, ge=1, le=256)
    """Positions in one KV block; the same on every stage of a model."""
    max_running: int = Field(default=32, ge=1, le=1024)
    """Generations that step together."""
    max_waiting: int = Field(default=64, ge=0, le=65536)
    """Generations that may wait for admission; more are refused as overloaded."""
    continuous_batching: bool = True
    """Let generations join and leave the running batch at any step; off, they run one by one."""
    chunked_prefill: bool = True
    """Compute long prompts in chunks beside what others decode; off, each in one step."""
    batched_prefill: bool = True
    """Compute chunks of several prompts in one step."""
    prefill_chunk_tokens: int = Field(default=128, ge=1, le=8192)
    """Prompt tokens in one step at most."""
    prefill_step_factor: float = Field(default=2.0, gt=1, le=1000)
    """How many times longer a step may take for the prompt tokens in it, while others decode."""
    step_row_budget: int = Field(default=512, ge=1, le=65536)
    """Tokens that a stage fuses into one step at most."""
    step_queue_max: int = Field(default=256, ge=1, le=65536)
    """Frames that may wait for a stage's next step."""
    grow_blocks: int = Field(default=4, ge=1, le=1024)
    """KV blocks asked for at once when a sequence grows."""
    prefix_cache: bool = True
    """Keep the KV of prompts and replies, so that what begins alike is computed once."""
    prefix_cache_scope: Literal["tenant", "fleet"] = "tenant"
    """Who may reuse a prefix; with `fleet`, timing tells one tenant what others have asked."""
    session_kv_ttl_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds after which an unused prefix is forgotten, even with memory to spare."""
    idle_model_s: float = Field(default=3600.0, ge=0, le=31_536_000)
    """Seconds after which an engine that nobody uses is unloaded, unless it is pinned; 0: never."""
    pin_loaded: Literal["auto", "always", "never"] = "auto"
    """Whether engines of `load` stay for ever; auto: those that would not come back on demand."""
    strict_exact: bool = False
    """Pad small steps, so that the last bits of a reply never depend on its neighbours."""
    beat_interval_s: float = Field(default=1.0, gt=0, le=60)
    """Seconds between two heartbeats."""
    lease_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds after which the KV of a silent head is freed."""
    ack_timeout_s: float = Field(default=1.0, gt=0, le=60)
    """Seconds within which the next stage must confirm a frame."""
    dial_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds within which a neighbouring stage must answer when it is dialled."""
    link_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds within which the stages behind must grant KV blocks."""
    restart_backoff_max_s: float = Field(default=30.0, gt=0, le=3600)
    """Longest pause before an engine child that died is started again."""


def engine_environment() -> dict[str, str]:
    """The environment of engine children.

    Threads that wait for one another spin for a short while only, unless the environment says
    otherwise: with the default (15 times as long), a step of two threads on two cores that others
    use as well took 20 times as long. Not spinning at all triples it on a quiet machine.
    """
    spin = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "20000"}
    return {**spin, **os.environ}
