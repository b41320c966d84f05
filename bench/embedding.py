"""What a vector of the local embedding model costs: time by length, batches, start, memory.

`python -m bench.embedding` prints a table and writes `bench/results/embedding.json`. Times are
those of callers: tokens, the way to the embedder's thread and back, and the run. The lengths take
turns, so that a machine others use drifts under all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.fleets import ROOT
from bench.rounds import machine_load
from bench.running import machine
from shoal_entropy_drafter.embedder import minilm
from shoal_entropy_drafter.embedder.local import LocalEmbedder

LENGTHS = (9, 30, 120, 256)
BATCH_SIZE = 32
ROUNDS = 100
QUICK_ROUNDS = 5
STARTS = 5
# Each of them is one token.
_WORDS = [
    "how",
    "do",
    "people",
    "learn",
    "the",
    "name",
    "of",
    "every",
    "river",
    "in",
    "their",
    "own",
    "country",
    "before",
    "winter",
]
_SPECIAL_TOKENS = 2

_START_PROGRAM = """
import json, time
began = time.perf_counter()
from shoal_entropy_drafter.embedder import minilm
imported = time.perf_counter()
model = minilm.MiniLm(minilm.model_folder())
loaded = time.perf_counter()
import psutil
held = psutil.Process().memory_full_info()
for _ in range(20):
    model.vectors([[101] + 254 * [2003] + [102]])
used = psutil.Process().memory_full_info()
print(json.dumps({
    "import_s": imported - began,
    "load_s": loaded - imported,
    "loaded_rss_bytes": held.rss,
    "loaded_own_bytes": held.uss,
    "used_rss_bytes": used.rss,
}))
"""


def text_of(token_count: int) -> str:
    """A text of exactly `token_count` tokens, special ones included."""
    count = token_count - _SPECIAL_TOKENS
    return " ".join(_WORDS[index % len(_WORDS)] for index in range(count))


def starts(count: int) -> dict[str, float]:
    """Medians over fresh processes: seconds until the first vector, bytes held."""
    command = [sys.executable, "-c", _START_PROGRAM]
    told = [
        json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        for _ in range(count)
    ]
    return {name: float(np.median([each[name] for each in told])) for name in told[0]}


async def timed_ms(embedder: LocalEmbedder, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    await embedder.embed(texts)
    return 1000 * (time.perf_counter() - began)


async def lengths(threads: int, rounds: int) -> dict[str, Any]:
    """Per length: p50 and p95 of one text, and per text in batches of `BATCH_SIZE`."""
    model = minilm.MiniLm(minilm.model_folder(), threads)
    embedder = LocalEmbedder(minilm.MODEL, model, timeout_s=600)
    alone: dict[int, list[float]] = {length: [] for length in LENGTHS}
    batched: dict[int, list[float]] = {length: [] for length in LENGTHS}
    try:
        for number in range(rounds):
            for length in LENGTHS:
                text = text_of(length)
                assert len(model.tokens(text)) == length
                alone[length].append(await timed_ms(embedder, [text]))
                # A batch takes as long as many rounds of one text.
                if number % 10 == 0:
                    batch_ms = await timed_ms(embedder, [text] * BATCH_SIZE)
                    batched[length].append(batch_ms / BATCH_SIZE)
    finally:
        await embedder.close()
    return {
        str(length): {
            "p50_ms": float(np.percentile(alone[length], 50)),
            "p95_ms": float(np.percentile(alone[length], 95)),
            "batch_ms_per_text": float(np.median(batched[length])),
        }
        for length in LENGTHS
    }


def measure(rounds: int) -> dict[str, Any]:
    load_before = machine_load()
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    begun = starts(STARTS)
    by_length = asyncio.run(lengths(1, rounds))
    return {
        "machine": {**machine(), "started": started},
        "load_before": load_before,
        "load_after": machine_load(),
        "model": minilm.MODEL,
        "threads": 1,
        "rounds": rounds,
        "batch_size": BATCH_SIZE,
        "by_token_count": by_length,
        "start": begun,
    }


def table(result: dict[str, Any]) -> str:
    rows = [f"{'tokens':>6} {'p50 ms':>8} {'p95 ms':>8} {'in ' + str(BATCH_SIZE) + 's, ms':>10}"]
    for length, times in result["by_token_count"].items():
        rows.append(
            f"{length:>6} {times['p50_ms']:>8.1f} {times['p95_ms']:>8.1f} "
            f"{times['batch_ms_per_text']:>10.1f}"
        )
    start, mib = result["start"], 1 << 20
    rows.append(f"start: {start['import_s']:.2f} s to import, {start['load_s']:.2f} s to load")
    rows.append(
        f"memory: {start['loaded_rss_bytes'] / mib:.0f} MiB loaded, "
        f"{start['used_rss_bytes'] / mib:.0f} MiB after long texts"
    )
    rows.append("load before: " + ", ".join(f"{value:.2f}" for value in result["load_before"]))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.embedding", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "embedding.json")
    chosen = parser.parse_args()
    result = measure(QUICK_ROUNDS if chosen.quick else ROUNDS)
    print(table(result))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
