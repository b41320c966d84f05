"""Tiny random checkpoints of every supported architecture, and runs of them to compare.

Ships with the engine so that other rooms can test against a real model in milliseconds. No
product code imports it.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers

from shoal_engine.blocks import SequenceKv
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import FAMILIES, LayerRange
from shoal_engine.stage import Row, Stage, StageBatch

LAYER_COUNT = 4
VOCAB_SIZE = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYER_COUNT,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # Wide enough that the best token is far ahead of the second.
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Windows are shorter than the prompts of the tests, so that they cut.
_OWN: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"head_dim": 8},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 16},
    "MistralForCausalLM": {"head_dim": 8, "sliding_window": 7},
    "Gemma2ForCausalLM": {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16},
    "Phi3ForCausalLM": {"sliding_window": 9},
    "Glm4ForCausalLM": {"head_dim": 8},
    "Starcoder2ForCausalLM": {"use_bias": True},
}
ARCHITECTURES = sorted(FAMILIES)


def make_checkpoint(folder: Path, architecture: str, **changes: Any) -> Path:
    """Save a random checkpoint (seed 0) of `architecture` to `folder` as safetensors."""
    settings = _COMMON | _OWN[architecture] | changes
    model_class = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**settings))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # Norms and biases of a fresh model are all 1 or 0.
            parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder


def reference_tokens(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """What `generate` of transformers says, greedy, fp32, `count` tokens whatever they are."""
    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
    )
    return [int(token) for token in made[0, len(prompt) :]]


def prompt_of(length: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """A random prompt, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return [int(token) for token in torch.randint(3, vocab_size, (length,), generator=generator)]


class Chain:
    """Stages of one model in one process, fed as a pipeline would feed them."""

    def __init__(self, folder: Path, cuts: Sequence[int], options: StageOptions) -> None:
        self.stages: list[Stage] = [
            load_stage(folder, LayerRange(start, stop), options) for start, stop in pairwise(cuts)
        ]

    def attach(self, token_count: int) -> list[SequenceKv]:
        """KV for a new sequence on every stage."""
        return [stage.pool.sequence(token_count) for stage in self.stages]

    def step(self, rows: Sequence[tuple[list[SequenceKv], int, Sequence[int]]]) -> torch.Tensor:
        """Run rows (kv of every stage, position, token ids); returns logits (R, V)."""
        token_ids = torch.tensor([token for _, _, ids in rows for token in ids])
        hidden: torch.Tensor | None = None
        for index, stage in enumerate(self.stages):
            batch = StageBatch(
                rows=[Row(kvs[index], position, len(ids)) for kvs, position, ids in rows],
                token_ids=token_ids if index == 0 else None,
                hidden=hidden,
            )
            output = stage.forward(batch)
            hidden = output.hidden
        assert output.logits is not None
        return output.logits

    def greedy(self, prompt: Sequence[int], count: int, chunk: int = 1000) -> list[int]:
        """Prefill in chunks, then `count` greedy tokens of one sequence."""
        kvs = self.attach(len(prompt) + count)
        for start in range(0, len(prompt), chunk):
            logits = self.step([(kvs, start, prompt[start : start + chunk])])
        made = [int(logits[0].argmax())]
        while len(made) < count:
            logits = self.step([(kvs, len(prompt) + len(made) - 1, made[-1:])])
            made.append(int(logits[0].argmax()))
        return made
