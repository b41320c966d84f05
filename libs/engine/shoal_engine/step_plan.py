"""What one ragged step reads and writes in the KV blocks.

Owns the arithmetic from (sequence, position, count) to slots, key spans and masks. A plan is made
once per step and shared by all layers; everything in it that belongs to a row is computed from
that row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from shoal_engine.blocks import TILE_TOKENS, SequenceKv

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AttentionForm:
    """What a model's attention looks like to a plan.

    group: query heads per KV head. explicit_causal: masks are wanted even where a kernel could
    mask by itself. is_tiled: a single token attends tile by tile. dtype and device are those of
    the activations.
    """

    group: int
    explicit_causal: bool
    is_tiled: bool
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class KeyPiece:
    """`count` keys that are read at once.

    Either `first_slot` is set (they lie in consecutive slots) or `blocks` and `offset`, and then
    they are copied together first.
    """

    count: int
    first_slot: int | None
    blocks: torch.Tensor | None
    offset: int


@dataclass(frozen=True)
class KeySpan:
    """The keys that one row attends to, in pieces that depend on the row's position alone.

    mask: (group * count, keys), 0 where a token may look and -inf elsewhere, repeated for the
    query heads that share a KV head; None where a token may look everywhere (a row of one token)
    or `is_causal` says all. With several pieces there is neither.
    """

    pieces: list[KeyPiece]
    mask: torch.Tensor | None
    is_causal: bool


@dataclass
class PlannedRow:
    """`count` tokens of one sequence at rows [token_start, token_start + count) of the batch."""

    kv: SequenceKv
    position: int
    count: int
    token_start: int
    form: AttentionForm
    _spans: dict[int, KeySpan] = field(default_factory=dict)

    @property
    def token_stop(self) -> int:
        """End of the row's tokens in the batch."""
        return self.token_start + self.count

    def key_span(self, sliding_window: int | None) -> KeySpan:
        """The keys for layers with this window (None: all positions), the same for all of them."""
        start = 0
        if sliding_window is not None:
            start = max(0, self.position + 1 - sliding_window)
        # A window that hides no position from any token of the row is no window.
        is_cut = sliding_window is not None and self.position + self.count > sliding_window
        key = sliding_window if sliding_window is not None and is_cut else -1
        span = self._spans.get(key)
        if span is None:
            span = self._make_span(start, sliding_window if is_cut else None)
            self._spans[key] = span
        return span

    def _make_span(self, start: int, window: int | None) -> KeySpan:
        stop = self.position + self.count
        is_causal = (
            self.count > 1
            and self.position == 0
            and window is None
            and not self.form.explicit_causal
        )
        mask = None if self.count == 1 or is_causal else self._mask(start, window)
        cuts = [start, stop]
        if self.count == 1 and self.form.is_tiled:
            first_cut = (start // TILE_TOKENS + 1) * TILE_TOKENS
            cuts[1:1] = range(first_cut, stop, TILE_TOKENS)
        pieces = [self._piece(first, last) for first, last in pairwise(cuts)]
        return KeySpan(pieces, mask, is_causal)

    def _piece(self, start: int, stop: int) -> KeyPiece:
        size = self.kv.block_size_tokens
        first = start // size
        blocks = self.kv.blocks[first : -(-stop // size)]
        offset = start - first * size
        first_slot, table = None, None
        if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
            first_slot = blocks[0] * size + offset
        else:
            table = torch.tensor(blocks, dtype=torch.int64, device=self.form.device)
        return KeyPiece(stop - start, first_slot, table, offset)

    def _mask(self, start: int, window: int | None) -> torch.Tensor:
        stop = self.position + self.count
        query = torch.arange(self.position, stop, device=self.form.device)[:, None]
        key = torch.arange(start, stop, device=self.form.device)[None, :]
        hidden = key > query
        if window is not None:
            hidden |= key <= query - window
        mask = torch.zeros(hidden.shape, dtype=self.form.dtype, device=hidden.device)
        mask.masked_fill_(hidden, float("-inf"))
        return mask.repeat(self.form.group, 1)


@dataclass(frozen=True)
class StepPlan:
    """A whole step. `slots` (T,) is where the T real tokens' KV goes, in batch order.

    position_ids: (P,) of all rows, P >= T; rows [T, P) are padding that touches no KV.
    """

    rows: list[PlannedRow]
    slots: torch.Tensor
    position_ids: torch.Tensor

    @property
    def token_count(self) -> int:
        """T: tokens that belong to sequences."""
        return int(self.slots.shape[0])


def plan_step(
    spans: Sequence[tuple[SequenceKv, int, int]],
    padded_count: int,
    form: AttentionForm,
) -> StepPlan:
    """Plan a step of rows (kv, position, count), padded to `padded_count` tokens."""
    rows = []
    token_start = 0
    for kv, position, count in spans:
        rows.append(PlannedRow(kv, position, count, token_start, form))
        token_start += count
    positions = np.zeros(padded_count, dtype=np.int64)
    slots = np.empty(token_start, dtype=np.int64)
    for row in rows:
        _fill(row, positions, slots)
    return StepPlan(
        rows,
        slots=torch.from_numpy(slots).to(form.device),
        position_ids=torch.from_numpy(positions).to(form.device),
    )


def _fill(row: PlannedRow, positions: Ids, slots: Ids) -> None:
    size = row.kv.block_size_tokens
    if row.count == 1:
        block, offset = divmod(row.position, size)
        positions[row.token_start] = row.position
        slots[row.token_start] = row.kv.blocks[block] * size + offset
        return
    here = slice(row.token_start, row.token_stop)
    stop = row.position + row.count
    positions[here] = np.arange(row.position, stop)
    first = row.position // size
    table = np.asarray(row.kv.blocks[first : -(-stop // size)], dtype=np.int64)
    table_index, block_offset = np.divmod(positions[here], size)
    slots[here] = table[table_index - first] * size + block_offset
