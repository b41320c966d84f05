"""A contiguous range of a model's layers as one callable.

Owns one step: checking a ragged batch, running the layers, and making logits on the last stage.
Does not know requests, scheduling or other stages. One compute thread calls it.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from shoal_engine.blocks import BlockPool, SequenceKv
from shoal_engine.errors import InvalidBatch
from shoal_engine.kv_store import PagedKvStore
from shoal_engine.padding import EXACT_ROW_COUNT, padded_row_count
from shoal_engine.shape import LayerRange, ModelShape
from shoal_engine.step_plan import AttentionForm, plan_step


@dataclass(frozen=True)
class Row:
    """`count` tokens at positions [position, position + count) of one sequence.

    `kv` must have capacity for them, and positions before `position` must be stored already. A
    position below `kv.length` overwrites; what lies behind it is forgotten.
    """

    kv: SequenceKv
    position: int
    count: int
    wants_logits: bool = True


@dataclass(frozen=True)
class StageBatch:
    """The T tokens of a step, in the order of `rows`.

    token_ids: (T,) int64 on the first stage, else None. hidden: (T, D) on later stages, any float
    dtype and device, else None. layers: the part of the stage's layers that runs, None for all;
    what is said here of stages is true of the part then.
    """

    rows: list[Row]
    token_ids: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    layers: LayerRange | None = None


@dataclass(frozen=True)
class StageOutput:
    """What a step gives.

    hidden: (T, D) in the stage's dtype on its device, None on the last stage. logits: (R, V)
    float32, of the last token of each row that wants them, in row order; None before the last
    stage.
    """

    hidden: torch.Tensor | None = None
    logits: torch.Tensor | None = None


@dataclass(frozen=True)
class StageModel:
    """The parts of a model definition that a stage runs.

    body: embedding (first stage only), layers, final norm (last stage only) and rotary embedding,
    callable as the base model of `transformers`. head: on the last stage only. dtype: of
    activations and KV. quantization: of the weights, none or int8.
    """

    body: Any
    head: nn.Module | None
    logit_softcap: float | None
    attention_softcap: float | None
    dtype: torch.dtype
    device: torch.device
    quantization: str
    weight_bytes: int


@dataclass(frozen=True)
class _Part:
    """Some layers of a stage that follow one another, as a callable of their own."""

    layers: LayerRange
    body: Any
    is_first: bool
    is_last: bool


class Stage:
    """Layers `layers` of the model `shape`, with the KV of their sequences.

    `pool` accounts for the blocks; callers allocate from it and release to it, `forward` only
    writes into blocks that the rows hold. A sequence runs through the same layers in every step,
    all of the stage's or a part; its blocks hold KV of these layers only.
    """

    def __init__(
        self,
        model: StageModel,
        shape: ModelShape,
        layers: LayerRange,
        pool: BlockPool,
        store: PagedKvStore,
        strict_exact: bool,
    ) -> None:
        self.shape = shape
        self.layers = layers
        self.pool = pool
        self.is_first = layers.is_first
        self.is_last = layers.is_last(shape.layer_count)
        self.device = model.device
        self.dtype = model.dtype
        self.quantization = model.quantization
        self.weight_bytes = model.weight_bytes
        self.kv_bytes_per_block = store.bytes_per_block
        self._model = model
        self._whole = _Part(layers, model.body, self.is_first, self.is_last)
        self._parts: dict[LayerRange, _Part] = {layers: self._whole}
        self._store = store
        self._is_strict = strict_exact
        self._is_int8 = model.quantization == "int8"
        self._form = AttentionForm(
            group=shape.head_count // shape.kv_head_count,
            explicit_causal=model.attention_softcap is not None,
            is_tiled=self.device.type == "cpu" and model.attention_softcap is None,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def forward(self, batch: StageBatch) -> StageOutput:
        """Run the stage's layers, or the part of them that `batch` names, on one step.

        Makes the copies that the rows' KV asks for, writes keys and values of the rows' positions
        into their blocks and moves each `kv.length` to position + count. Raises InvalidBatch, with
        nothing written, for a batch that contradicts the model or its KV. Synchronous.
        """
        part = self._part(batch.layers)
        self._check(batch, part)
        self._copy_shared(batch, part.layers)
        plan = plan_step(
            [(row.kv, row.position, row.count) for row in batch.rows],
            self._padded(sum(row.count for row in batch.rows)),
            self._form,
        )
        hidden = part.body(
            **self._inputs(batch, int(plan.position_ids.shape[0])),
            position_ids=plan.position_ids[None],
            attention_mask=None,
            use_cache=False,
            step_plan=plan,
            kv_store=self._store,
        ).last_hidden_state[0]
        for row in batch.rows:
            row.kv.length = row.position + row.count
        if part.is_last:
            return StageOutput(logits=self._logits(hidden, batch.rows))
        return StageOutput(hidden=hidden[: plan.token_count])

    def _part(self, layers: LayerRange | None) -> _Part:
        """The callable for some of the layers, made when it is first asked for."""
        if layers is None:
            return self._whole
        if layers not in self._parts:
            start, stop = self.layers.start, self.layers.stop
            if not start <= layers.start < layers.stop <= stop:
                raise InvalidBatch(f"layers {layers} are not among the stage's {self.layers}")
            is_last = layers.is_last(self.shape.layer_count)
            body = _cut(self._model.body, layers.start - start, layers.stop - start, is_last)
            self._parts[layers] = _Part(layers, body, layers.is_first, is_last)
        return self._parts[layers]

    def _copy_shared(self, batch: StageBatch, layers: LayerRange) -> None:
        """Make sequences' own copies of what they share and will write to."""
        pairs = [pair for row in batch.rows for pair in row.kv.copies]
        if pairs:
            self._store.copy(pairs, layers)

    def _inputs(self, batch: StageBatch, padded_count: int) -> dict[str, torch.Tensor]:
        """The body's input, padded with token 0 or zeros."""
        if batch.token_ids is not None:
            ids = batch.token_ids.to(self.device)
            return {"input_ids": F.pad(ids, (0, padded_count - ids.shape[0]))[None]}
        assert batch.hidden is not None
        hidden = batch.hidden.to(device=self.device, dtype=self.dtype)
        padded = F.pad(hidden, (0, 0, 0, padded_count - hidden.shape[0]))
        return {"inputs_embeds": padded[None]}

    def _logits(self, hidden: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        """Logits (R, V) of the last token of each row that wants them; hidden: (P, D), normed."""
        assert self._model.head is not None
        wanted = []
        token_stop = 0
        for row in rows:
            token_stop += row.count
            if row.wants_logits:
                wanted.append(token_stop - 1)
        if not wanted:
            return hidden.new_empty((0, self.shape.vocab_size), dtype=torch.float32)
        # In a step of 4 rows the head, too, must see 4 of them for its bits not to depend on who
        # else wants logits.
        row_count = len(wanted)
        if not self._is_int8:
            row_count = self._padded(max(row_count, min(EXACT_ROW_COUNT, hidden.shape[0])))
        chosen = wanted + wanted[:1] * (row_count - len(wanted))
        index = torch.tensor(chosen, dtype=torch.int64, device=self.device)
        logits: torch.Tensor = self._model.head(hidden.index_select(0, index))[: len(wanted)]
        if self._model.logit_softcap is not None:
            logits = torch.tanh(logits / self._model.logit_softcap) * self._model.logit_softcap
        return logits.float()

    def _padded(self, count: int) -> int:
        if self._is_int8:
            return count
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        return padded_row_count(count, threads, self._is_strict)

    def _check(self, batch: StageBatch, part: _Part) -> None:
        if not batch.rows:
            raise InvalidBatch("it has no rows")
        for row in batch.rows:
            self._check_row(row)
        if len({id(row.kv) for row in batch.rows}) != len(batch.rows):
            raise InvalidBatch("two rows belong to one sequence")
        token_count = sum(row.count for row in batch.rows)
        given = batch.token_ids if part.is_first else batch.hidden
        other = batch.hidden if part.is_first else batch.token_ids
        if given is None or other is not None:
            raise InvalidBatch(
                f"a stage for layers {part.layers} takes "
                f"{'token ids' if part.is_first else 'hidden rows'} and nothing else"
            )
        size = (token_count,) if part.is_first else (token_count, self.shape.hidden_size)
        if tuple(given.shape) != size:
            raise InvalidBatch(f"its tensor is {tuple(given.shape)}, its rows need {size}")
        if not (given.dtype is torch.int64 if part.is_first else given.is_floating_point()):
            raise InvalidBatch(f"its tensor holds {given.dtype}")
        if batch.token_ids is not None:
            low, high = batch.token_ids.aminmax()
            if int(low) < 0 or int(high) >= self.shape.vocab_size:
                raise InvalidBatch(f"a token id is outside [0, {self.shape.vocab_size})")

    def _check_row(self, row: Row) -> None:
        kv = row.kv
        assert kv.block_size_tokens == self.pool.block_size_tokens
        stop = row.position + row.count
        if row.count < 1 or not 0 <= row.position <= kv.length:
            raise InvalidBatch(
                f"{row.count} tokens at position {row.position}, after {kv.length} stored positions"
            )
        assert row.position >= kv.shared_count * kv.block_size_tokens, "shared blocks are read-only"
        if stop > kv.capacity:
            raise InvalidBatch(f"it needs {stop} positions, its blocks hold {kv.capacity}")
        if stop > self.shape.context_length:
            raise InvalidBatch(
                f"it needs {stop} positions, the model's context is {self.shape.context_length}"
            )


def _cut(body: Any, start: int, stop: int, is_last: bool) -> Any:
    """A body of the layers [start, stop) of `body`, counted from its own first, and its weights."""
    part = copy.copy(body)
    part.__dict__["_modules"] = dict(body._modules)
    part.layers = nn.ModuleList(body.layers[start:stop])
    if not is_last:
        part.norm = nn.Identity()
    return part
