"""Metric objects of an engine child and of the agent; each process makes its own set."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class EngineMetrics:
    """Of one engine child: steps, queues, KV and requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "shoal_worker_gpu_"
        self.requests = Counter(
            prefix + "requests_total", "Generations by outcome.", ["outcome"], registry=registry
        )
        self.duration = Histogram(
            prefix + "duration_seconds",
            "Generations from admission to end.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(prefix + "in_flight", "Generations admitted.", registry=registry)
        self.waiting = Gauge(
            prefix + "waiting_queue_depth", "Generations that wait.", registry=registry
        )
        self.step_queue_depth = Gauge(
            prefix + "step_queue_depth", "Items that wait for a step.", registry=registry
        )
        self.step_seconds = Histogram(
            prefix + "step_seconds", "Compute time of a step.", buckets=_SECONDS, registry=registry
        )
        self.step_rows = Histogram(
            prefix + "step_rows", "Tokens in a step.", buckets=_ROWS, registry=registry
        )
        self.step_failures = Counter(
            prefix + "step_failures_total", "Steps that failed.", registry=registry
        )
        self.tokens = Counter(prefix + "tokens_total", "Tokens generated.", registry=registry)
        self.prompt_tokens = Counter(
            prefix + "prompt_tokens_total",
            "Tokens of admitted sequences, computed or reused from KV.",
            ["source"],
            registry=registry,
        )
        self.preemptions = Counter(
            prefix + "preemptions_total", "Sequences put back for lack of KV.", registry=registry
        )
        self.leases_expired = Counter(
            prefix + "leases_expired_total", "Sequences freed after silence.", registry=registry
        )
        self.kv_blocks_free = Gauge(
            prefix + "kv_blocks_free", "KV blocks nobody holds.", registry=registry
        )


class AgentMetrics:
    """Of the agent: its children and beats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "shoal_worker_gpu_agent_"
        self.requests = Counter(
            prefix + "requests_total", "Agent calls by outcome.", ["outcome"], registry=registry
        )
        self.restarts = Counter(
            prefix + "engine_restarts_total", "Engine children started again.", registry=registry
        )
        self.engines = Gauge(prefix + "engines", "Engines by state.", ["state"], registry=registry)
        self.beats = Counter(
            prefix + "beats_total", "Beats by outcome.", ["outcome"], registry=registry
        )
