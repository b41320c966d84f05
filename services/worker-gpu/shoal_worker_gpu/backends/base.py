"""The contract between a stage and whatever computes its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shoal_engine.blocks import BlockPool, SequenceKv
from shoal_engine.sampling import Sampled, SamplingState
from shoal_engine.shape import LayerRange


@dataclass(frozen=True)
class StepRow:
    """`count` tokens of one sequence from `position` on.

    sampling: set on the last stage where the row wants the token behind its last one.
    """

    kv: SequenceKv
    position: int
    count: int
    sampling: SamplingState | None = None


@dataclass(frozen=True)
class StepInput:
    """One fused step of T tokens, in row order.

    layers: the part of the backend's layers that runs, all of them or fewer; with the model's
    first layer this is a first stage, with its last one a last stage. token_ids: on the first
    stage, T ids. activations: on later stages, little-endian float32 rows [t, D] of the fused
    frames, T in all.
    """

    rows: Sequence[StepRow]
    layers: LayerRange
    token_ids: Sequence[int] = ()
    activations: Sequence[memoryview | bytes] = ()


@dataclass(frozen=True)
class StepOutput:
    """activations: T rows [D] as float32 bytes, empty on the last stage. sampled: one entry per
    row, None where no token was wanted; only on the last stage."""

    activations: bytes = b""
    sampled: Sequence[Sampled | None] = field(default_factory=tuple)


class Backend(Protocol):
    """Layers [layer_start, layer_stop) with the KV of their sequences.

    `pool` is used from the event loop, `run` from one compute thread. kv_format: names whatever
    else changes the numbers in KV (number format, quantisation); part of every prefix key.
    model_folder: holds the model's small files, None without any. head_layers: what comes behind
    the model's last layer, in layers; 0 without it.
    """

    layer_start: int
    layer_stop: int
    layer_count: int
    width: int
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    block_size_tokens: int
    weight_bytes: int
    head_layers: float
    kv_format: str
    model_folder: Path | None
    pool: BlockPool

    @property
    def blocks_total(self) -> int: ...

    @property
    def blocks_free(self) -> int: ...

    def run(self, step: StepInput) -> StepOutput:
        """Compute one step, making first the copies that its rows' KV asks for.

        Raises ShoalError, with the KV of all rows undefined from their position on.
        """
        ...
