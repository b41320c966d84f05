"""What splitting and serving cost: two stages against one, and the fleet against the engine.

Both comparisons are ratios or differences within one run, on the heavyweight demo model, with the
machine's load recorded beside them. `python bench/fleet.py` prints a table and writes
`bench/results/fleet.json`. It drives the fleet with the harness of the end-to-end tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.driving import SUITE, Driver, prompt_ids  # noqa: E402
from tests.e2e.fleet import MODELS, Fleet  # noqa: E402

MODEL = "heavyweight"
STREAMS = 8
TOKENS = 128
ROUNDS = 5
FIRST_TOKENS = 60
QUESTION = "What is the capital of France?"


@contextmanager
def fleet_of(workers: int, threads: int) -> Iterator[Fleet]:
    """A fleet whose workers hold equal parts of the model, `threads` torch threads in each."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(
            Path(folder),
            models=[MODEL],
            workers=workers,
            split=workers > 1,
            environment={
                "SHOAL_WORKER_GPU_THREADS": str(threads),
                "OMP_NUM_THREADS": str(threads),
                # Rounds repeat their prompts; the engine in this process computes them each time.
                "SHOAL_WORKER_GPU_PREFIX_CACHE": "false",
            },
        )
        try:
            fleet.until_ready()
            yield fleet
        finally:
            fleet.stop()


def cpu_seconds(fleet: Fleet) -> float:
    """CPU time of every process of the fleet so far."""
    times = [process.cpu_times() for process in fleet.processes()]
    return sum(t.user + t.system for t in times)


async def throughput(fleet: Fleet) -> dict[str, float]:
    """Tokens per second of `STREAMS` streams at once, median of the rounds."""
    driver = Driver(fleet.address("router"), fleet.token)
    prompts = [prompt_ids(MODELS / MODEL, prompt) for prompt in SUITE["prompts"][:STREAMS]]

    async def round_of() -> float:
        started = time.perf_counter()
        replies = await asyncio.gather(*(driver.generate(MODEL, p, TOKENS) for p in prompts))
        assert all(len(reply) == TOKENS for reply in replies)
        return STREAMS * TOKENS / (time.perf_counter() - started)

    try:
        await round_of()
        cpu_before = cpu_seconds(fleet)
        rates = [await round_of() for _ in range(ROUNDS)]
        cpu = cpu_seconds(fleet) - cpu_before
    finally:
        await driver.close()
    return {
        "tokens_per_s": statistics.median(rates),
        "tokens_per_cpu_s": ROUNDS * STREAMS * TOKENS / cpu,
    }


async def first_byte_ms(fleet: Fleet) -> float:
    """From sending the request to the first piece of text, over HTTP, p50.

    A plain HTTP client: the official SDK adds about 8 ms of its own.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 2,
        "stream": True,
    }
    taken: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {fleet.key}"}) as session:
        for _ in range(FIRST_TOKENS):
            started = time.perf_counter()
            async with session.post(f"{fleet.url}/v1/chat/completions", json=body) as response:
                async for line in response.content:
                    if b'"content":"' in line and b'"content":""' not in line:
                        taken.append(1000 * (time.perf_counter() - started))
                        break
                await response.read()
    assert len(taken) == FIRST_TOKENS
    return statistics.median(taken)


def engine_first_token_ms(threads: int) -> float:
    """The same prompt's first token from the engine, called in this process, p50."""
    import torch

    from shoal_engine.loading import StageOptions, load_stage
    from shoal_engine.shape import LayerRange, read_shape
    from shoal_engine.stage import Row, StageBatch

    folder = MODELS / MODEL
    shape = read_shape(folder)
    stage = load_stage(folder, LayerRange(0, shape.layer_count), StageOptions(threads=threads))
    ids = torch.tensor(
        prompt_ids(folder, {"messages": [{"role": "user", "content": QUESTION}]}),
        dtype=torch.int64,
    )
    taken: list[float] = []
    for _ in range(FIRST_TOKENS):
        started = time.perf_counter()
        kv = stage.pool.sequence(len(ids))
        output = stage.forward(StageBatch([Row(kv, 0, len(ids))], token_ids=ids))
        assert output.logits is not None
        output.logits.argmax().item()
        taken.append(1000 * (time.perf_counter() - started))
        stage.pool.release(kv.blocks)
    return statistics.median(taken)


def measure() -> dict[str, Any]:
    load_before = os.getloadavg()
    with fleet_of(workers=1, threads=2) as fleet:
        one = asyncio.run(throughput(fleet))
        http_ms = asyncio.run(first_byte_ms(fleet))
    with fleet_of(workers=2, threads=1) as fleet:
        two = asyncio.run(throughput(fleet))
    engine_ms = engine_first_token_ms(threads=2)
    return {
        "model": MODEL,
        "streams": STREAMS,
        "tokens_per_stream": TOKENS,
        "rounds": ROUNDS,
        "cores": psutil.cpu_count(),
        "load_before": load_before,
        "one_stage_two_threads": one,
        "two_stages_one_thread_each": two,
        "two_stages_to_one": two["tokens_per_s"] / one["tokens_per_s"],
        "http_first_text_ms_p50": http_ms,
        "engine_first_token_ms_p50": engine_ms,
        "added_ms_p50": http_ms - engine_ms,
    }


def table(result: dict[str, Any]) -> str:
    one, two = result["one_stage_two_threads"], result["two_stages_one_thread_each"]
    rows = [
        ("one stage, 2 threads, 8 streams", f"{one['tokens_per_s']:.0f} tok/s"),
        ("two stages, 1 thread each, 8 streams", f"{two['tokens_per_s']:.0f} tok/s"),
        ("ratio (target >= 0.70)", f"{result['two_stages_to_one']:.2f}"),
        ("HTTP to first text, p50", f"{result['http_first_text_ms_p50']:.1f} ms"),
        ("engine in process, first token, p50", f"{result['engine_first_token_ms_p50']:.1f} ms"),
        ("added by the fleet (target <= 15 ms)", f"{result['added_ms_p50']:.1f} ms"),
        ("load before", ", ".join(f"{value:.2f}" for value in result["load_before"])),
    ]
    return "\n".join(f"{name:<40} {value}" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "fleet.json")
    out: Path = parser.parse_args().out
    result = measure()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(f"written to {out}")


if __name__ == "__main__":
    main()
