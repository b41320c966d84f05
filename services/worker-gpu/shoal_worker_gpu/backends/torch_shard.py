"""Our own layer-shard engine on torch behind the backend contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from shoal_common.errors import ShoalError
from shoal_engine.sampling import Sampled, SamplingState, sample
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_worker_gpu.backends.base import StepInput, StepOutput, StepRow


class TorchShard:
    """A `shoal_engine.Stage` that speaks bytes and token ids."""

    def __init__(self, stage: Stage, model_folder: Path) -> None:
        """model_folder: where the model's tokenizer.json lies, for grammars."""
        self._stage = stage
        self.model_folder: Path | None = model_folder
        shape = stage.shape
        self.layer_start = stage.layers.start
        self.layer_stop = stage.layers.stop
        self.layer_count = shape.layer_count
        self.width = shape.hidden_size
        self.vocab_size = shape.vocab_size
        self.context_length = shape.context_length
        self.eos_token_ids = frozenset(shape.eos_token_ids)
        self.block_size_tokens = stage.pool.block_size_tokens
        self.weight_bytes = stage.weight_bytes
        is_last = stage.layers.is_last(shape.layer_count)
        self.head_layers = shape.head_layers if is_last else 0.0
        self.kv_format = f"{stage.dtype}/{stage.quantization}"
        self.pool = stage.pool

    @property
    def blocks_total(self) -> int:
        return self.pool.block_count

    @property
    def blocks_free(self) -> int:
        return self.pool.free_count

    def run(self, step: StepInput) -> StepOutput:
        rows = [
            Row(row.kv, row.position, row.count, wants_logits=row.sampling is not None)
            for row in step.rows
        ]
        output = self._stage.forward(self._batch(rows, step))
        if output.hidden is not None:
            hidden = output.hidden.to(device="cpu", dtype=torch.float32).contiguous()
            return StepOutput(activations=hidden.numpy().tobytes())
        assert output.logits is not None
        return StepOutput(sampled=_draw(output.logits.cpu(), step.rows))

    def _batch(self, rows: list[Row], step: StepInput) -> StageBatch:
        if step.layers.is_first:
            ids = torch.tensor(step.token_ids, dtype=torch.int64)
            return StageBatch(rows, token_ids=ids, layers=step.layers)
        # A copy, because torch refuses to own read-only memory.
        joined = bytearray().join(step.activations)
        hidden = torch.frombuffer(joined, dtype=torch.float32).view(-1, self.width)
        return StageBatch(rows, hidden=hidden, layers=step.layers)


def _draw(logits: torch.Tensor, rows: Sequence[StepRow]) -> list[Sampled | None]:
    """One token for each row that wants one; its position is that of the token drawn."""
    states: list[SamplingState] = []
    positions: list[int] = []
    for row in rows:
        if row.sampling is not None:
            states.append(row.sampling)
            positions.append(row.position + row.count)
    drawn = iter(sample(logits, states, positions) if states else ())
    return [_observed(row.sampling, next(drawn)) if row.sampling else None for row in rows]


def _observed(state: SamplingState, token: Sampled) -> Sampled:
    """The token, remembered by its sequence, or why that is not possible."""
    if token.failure is not None:
        return token
    try:
        state.observe(token.token_id)
    except ShoalError as err:
        return replace(token, failure=err)
    return token
