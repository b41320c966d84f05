"""How fast a running fleet answers: requests through the gateway, and statistics over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from shoal_cli.client import GatewayClient


@dataclass(frozen=True)
class BenchOptions:
    """What to send. Every one of `concurrency` callers sends `iterations` requests in turn."""

    model: str
    prompt: str
    max_tokens: int = 128
    iterations: int = 1
    concurrency: int = 1
    is_stream: bool = True

    @property
    def request_count(self) -> int:
        return self.iterations * self.concurrency

    @property
    def body(self) -> dict[str, Any]:
        """Greedy, so that runs are comparable."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }


@dataclass(frozen=True)
class Measured:
    """One request. `arrivals_s` are the times of its text events, empty when not streamed."""

    start_s: float
    stop_s: float
    token_count: int
    arrivals_s: tuple[float, ...] = ()

    @property
    def first_token_s(self) -> float | None:
        return self.arrivals_s[0] - self.start_s if self.arrivals_s else None

    @property
    def gaps_s(self) -> list[float]:
        return [
            later - sooner
            for sooner, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
        ]


@dataclass(frozen=True)
class Summary:
    """Figures over all requests; None where nothing was measured."""

    request_count: int
    token_count: int
    wall_s: float
    tokens_per_s: float
    first_token_ms_p50: float | None
    first_token_ms_p99: float | None
    gap_ms_p50: float | None
    gap_ms_p99: float | None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def summarise(measured: Sequence[Measured]) -> Summary:
    """Tokens per second is all tokens over the time from the first start to the last end."""
    assert measured
    wall_s = max(one.stop_s for one in measured) - min(one.start_s for one in measured)
    token_count = sum(one.token_count for one in measured)
    firsts_ms = [one.first_token_s * 1e3 for one in measured if one.first_token_s is not None]
    gaps_ms = [gap_s * 1e3 for one in measured for gap_s in one.gaps_s]
    return Summary(
        request_count=len(measured),
        token_count=token_count,
        wall_s=wall_s,
        tokens_per_s=token_count / wall_s if wall_s > 0 else 0.0,
        first_token_ms_p50=percentile(firsts_ms, 50),
        first_token_ms_p99=percentile(firsts_ms, 99),
        gap_ms_p50=percentile(gaps_ms, 50),
        gap_ms_p99=percentile(gaps_ms, 99),
    )


def table(options: BenchOptions, summary: Summary) -> Table:
    """The figures for people."""
    rows = Table("figure", "value", title=f"{options.model}, {options.concurrency} at a time")
    rows.add_row("requests", str(summary.request_count))
    rows.add_row("tokens", str(summary.token_count))
    rows.add_row("wall time", f"{summary.wall_s:.2f} s")
    rows.add_row("tokens per second", f"{summary.tokens_per_s:.1f}")
    for name, p50, p99 in (
        ("time to first token", summary.first_token_ms_p50, summary.first_token_ms_p99),
        ("gap between tokens", summary.gap_ms_p50, summary.gap_ms_p99),
    ):
        if p50 is not None and p99 is not None:
            rows.add_row(f"{name} p50 / p99", f"{p50:.1f} / {p99:.1f} ms")
    return rows


async def run(
    client: GatewayClient, options: BenchOptions, progress: Callable[[], None]
) -> list[Measured]:
    """Send everything; `progress` is called after each request. Raises GatewayFailed."""
    measured: list[Measured] = []

    async def caller() -> None:
        for _ in range(options.iterations):
            measured.append(await _one(client, options.body, options.is_stream))
            progress()

    callers = [asyncio.ensure_future(caller()) for _ in range(options.concurrency)]
    try:
        await asyncio.gather(*callers)
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return measured


async def _one(client: GatewayClient, body: Mapping[str, Any], is_stream: bool) -> Measured:
    start_s = time.perf_counter()
    if not is_stream:
        reply = await client.complete(body)
        return Measured(start_s, time.perf_counter(), reply.completion_tokens)
    arrivals_s: list[float] = []
    token_count: int | None = None
    async for delta in client.stream(body):
        if delta.text:
            arrivals_s.append(time.perf_counter())
        if delta.completion_tokens is not None:
            token_count = delta.completion_tokens
    stop_s = time.perf_counter()
    made = len(arrivals_s) if token_count is None else token_count
    return Measured(start_s, stop_s, made, tuple(arrivals_s))
