"""`shoal up` for benchmarks: the same code, with threads and settings of one's own choosing.

The command line leaves the number of threads to the workers; a benchmark compares thread counts,
so it says how many. `python -m bench.bring_up --help` lists the options.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from shoal_cli import fleet, settings, up
from shoal_cli.local_model import read_local_model
from shoal_cli.terminal import Terminal
from shoal_common.app import die_with_parent
from shoal_common.errors import ShoalError


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--workers", type=int, default=1, help="each holds a part of the layers")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    chosen = parser.parse_args()
    options = fleet.UpOptions(
        data_dir=chosen.data_dir.absolute(),
        port=chosen.port,
        models=(read_local_model(chosen.model),),
        worker_count=chosen.workers,
        is_split=chosen.workers > 1,
    )
    inherited = settings.load(options.data_dir)
    own = {"SHOAL_WORKER_GPU_THREADS": str(chosen.threads)}
    own |= dict(pair.split("=", 1) for pair in chosen.set)
    cli_settings = replace(inherited, environment={**inherited.environment, **own})
    try:
        with Terminal(Console(width=200)) as terminal:
            asyncio.run(up.run(options, cli_settings, terminal))
    except ShoalError as err:
        sys.exit(f"error: {err}")


if __name__ == "__main__":
    main()
