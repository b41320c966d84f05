"""Makes the demo models from a seed: `python -m recipe.make --model all`, run from `models/`.

Writes to `--out`/<name>, never over the models that ship unless told so. A run that is stopped
resumes from `--out`/<name>.training.safetensors when started again with the same options.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recipe.batches import BatchSource
from recipe.checkpoint import CheckpointMismatch, load_checkpoint, save_checkpoint
from recipe.export import Origin, export
from recipe.model import build_model
from recipe.presets import PRESETS, Preset
from recipe.tables import load_tables
from recipe.tokenizer import ChatEncoder, build_tokenizer
from recipe.train import Phase, Progress, Trainer

INTERRUPTED = 130
"""Exit status that shells give to a program stopped by Ctrl-C."""
DEFAULT_OUT = Path(__file__).resolve().parents[1] / "made"


@dataclass(frozen=True)
class Options:
    """Choices of one invocation; see `--help`."""

    presets: tuple[Preset, ...]
    seed: int
    out: Path
    threads: int
    device: str


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; exits with a message when it is wrong."""
    parser = argparse.ArgumentParser(
        description="make demo models of the shipped kind from a seed, without downloads"
    )
    parser.add_argument("--model", choices=[*(p.name for p in PRESETS), "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument(
        "--budget", type=float, help="million tokens of the full mix (default: the preset's)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    chosen = parser.parse_args(arguments)
    presets = tuple(p for p in PRESETS if chosen.model in (p.name, "all"))
    if chosen.budget is not None:
        if chosen.budget <= 0:
            parser.error(f"--budget must be more than 0 million tokens, not {chosen.budget}")
        presets = tuple(replace(p, token_budget=int(chosen.budget * 1e6)) for p in presets)
    has_cuda = torch.cuda.is_available()
    if chosen.device == "cuda" and not has_cuda:
        parser.error("--device cuda: torch sees no CUDA device; leave it out to use the CPU")
    device = ("cuda" if has_cuda else "cpu") if chosen.device == "auto" else chosen.device
    return Options(presets, chosen.seed, chosen.out, chosen.threads, device)


def reporter(preset: Preset) -> Callable[[Progress], None]:
    """Prints one line per report: phase, tokens, loss, speed and time left."""
    started = time.monotonic()
    tokens_before: int | None = None

    def report(progress: Progress) -> None:
        nonlocal tokens_before
        if tokens_before is None:
            tokens_before = progress.token_count
            speed, left = "measuring speed", ""
        else:
            rate = (progress.token_count - tokens_before) / (time.monotonic() - started)
            speed = f"{rate:,.0f} tokens/s"
            left = _time_left(preset, progress, rate)
        share = min(1.0, progress.phase_tokens / preset.token_budget)
        done = f"{share:4.0%}" if progress.phase is Phase.FULL else "    "
        loss = "-" if progress.loss is None else f"{progress.loss:.4f}"
        print(
            f"{preset.name} {progress.phase} {done} {progress.token_count / 1e6:6.2f}M tokens "
            f"loss {loss} {speed}{left}",
            flush=True,
        )

    return report


def _time_left(preset: Preset, progress: Progress, tokens_per_s: float) -> str:
    """Time to the end of the full mix, as text; the rest of the echo phase is not known."""
    if progress.phase is Phase.DONE or tokens_per_s <= 0:
        return ""
    used = progress.phase_tokens if progress.phase is Phase.FULL else 0
    minutes = (preset.token_budget - used) / tokens_per_s / 60
    return f", {minutes:.0f} min left" + (" after this phase" if used == 0 else "")


def make(preset: Preset, options: Options) -> Path:
    """Train or resume one model and export it; returns the model's folder.

    Raises CheckpointMismatch if training state of other options lies in the way.
    """
    tables = load_tables()
    tokenizer = build_tokenizer(options.seed, tables)
    source = BatchSource(
        options.seed, tables, ChatEncoder(tokenizer, tables.tools), preset.batch_tokens
    )
    model = build_model(preset.shape, options.seed)
    trainer = Trainer(preset, model, source, options.device)
    state = options.out / f"{preset.name}.training.safetensors"
    run_key = f"seed {options.seed}, {preset}"
    if state.exists():
        load_checkpoint(state, trainer, run_key)
    trainer.run(reporter(preset), lambda t: save_checkpoint(state, t, run_key))
    progress = trainer.progress
    assert progress.loss is not None
    folder = options.out / preset.name
    export(
        folder, preset, model, tokenizer, Origin(options.seed, progress.token_count, progress.loss)
    )
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        try:
            folder = make(preset, options)
        except CheckpointMismatch as err:
            print(f"error: {err}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("stopped: the same command resumes from the last saved state", file=sys.stderr)
            return INTERRUPTED
        print(f"{preset.name} written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
