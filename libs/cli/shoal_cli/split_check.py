"""Compares a split model with the unsplit one, in this process: the check behind `test-split`.

Imports the engine only when it runs, because torch takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal_cli.errors import BadOptions
from shoal_cli.fleet import layer_ranges
from shoal_cli.local_model import read_local_model

if TYPE_CHECKING:
    from shoal_engine.stage import Stage

PROMPTS = (
    "What is the capital of France?",
    "Count from one to ten.",
    "Once upon a time there was a small fish who",
)
_BLOCK_SIZE_TOKENS = 16


@dataclass(frozen=True)
class SplitOptions:
    """Which model, over how many stages, and how many greedy tokens per prompt."""

    folder: Path
    stage_count: int = 2
    token_count: int = 32
    prompts: tuple[str, ...] = PROMPTS


@dataclass(frozen=True)
class Comparison:
    """Greedy tokens of one prompt, unsplit and split."""

    prompt: str
    whole: tuple[int, ...]
    split: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        return self.whole == self.split

    @property
    def first_difference(self) -> int | None:
        """Index of the first token that differs; None when none does."""
        pairs = enumerate(zip(self.whole, self.split, strict=True))
        return next((index for index, (left, right) in pairs if left != right), None)


def compare(options: SplitOptions, progress: Callable[[], None]) -> list[Comparison]:
    """Run every prompt both ways; `progress` is called after each run (twice a prompt).

    Raises BadOptions when there are more stages than layers, ShoalError for folders that the
    engine refuses.
    """
    model = read_local_model(options.folder)
    if model.is_gguf:
        raise BadOptions(f"{model.path} is a GGUF file: test-split reads a folder with safetensors")
    ranges = layer_ranges(model.layer_count, options.stage_count)
    ids = [_token_ids(options.folder, prompt) for prompt in options.prompts]
    runs: list[list[tuple[int, ...]]] = []
    for cuts in ([(0, model.layer_count)], ranges):
        room = max(len(prompt) for prompt in ids) + options.token_count
        stages = _load(options.folder, cuts, room)
        made = []
        for prompt in ids:
            made.append(tuple(_greedy(stages, prompt, options.token_count)))
            progress()
        runs.append(made)
    whole, split = runs
    return [Comparison(*each) for each in zip(options.prompts, whole, split, strict=True)]


def _token_ids(folder: Path, prompt: str) -> list[int]:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadOptions(f"{path} is missing: test-split needs the model's tokenizer")
    ids: list[int] = Tokenizer.from_file(str(path)).encode(prompt).ids
    if not ids:
        raise BadOptions(f"the tokenizer makes no tokens of the prompt '{prompt}'")
    return ids


def _load(folder: Path, cuts: Sequence[tuple[int, int]], token_count: int) -> list[Stage]:
    from shoal_engine.loading import StageOptions, load_stage
    from shoal_engine.shape import LayerRange

    blocks = -(-token_count // _BLOCK_SIZE_TOKENS) + 1
    stage_options = StageOptions(kv_blocks=blocks, block_size_tokens=_BLOCK_SIZE_TOKENS)
    return [load_stage(folder, LayerRange(start, stop), stage_options) for start, stop in cuts]


def _greedy(stages: Sequence[Stage], prompt: Sequence[int], count: int) -> list[int]:
    """`count` greedy tokens after `prompt`, ends of a turn ignored."""
    import torch

    from shoal_engine.stage import Row, StageBatch

    kvs = [stage.pool.sequence(len(prompt) + count) for stage in stages]
    made: list[int] = []
    try:
        step, position = list(prompt), 0
        while len(made) < count:
            hidden = logits = None
            for stage, kv in zip(stages, kvs, strict=True):
                ids = torch.tensor(step) if hidden is None else None
                output = stage.forward(StageBatch([Row(kv, position, len(step))], ids, hidden))
                hidden, logits = output.hidden, output.logits
            assert logits is not None, "the last stage has no head"
            position += len(step)
            step = [int(logits[0].argmax())]
            made += step
    finally:
        for stage, kv in zip(stages, kvs, strict=True):
            stage.pool.release(kv.blocks)
    return made
