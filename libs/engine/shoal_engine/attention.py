"""The attention function that model definitions call.

Owns the arithmetic of attention over paged KV. Each sequence is attended by itself, with shapes
that depend on that sequence alone, so that its numbers cannot depend on its neighbours. The step's
plan and the store arrive as keyword arguments of the model's forward; nothing is kept here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from shoal_engine.kv_store import PagedKvStore
from shoal_engine.step_plan import KeyPiece, KeySpan, StepPlan

ATTENTION_NAME = "shoal_ragged"


def register_attention() -> None:
    """Make `ragged_attention` known to model definitions under ATTENTION_NAME; repeatable."""
    AttentionInterface.register(ATTENTION_NAME, ragged_attention)


def ragged_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    step_plan: StepPlan,
    kv_store: PagedKvStore,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the step's keys and values, then attend row by row.

    query: (1, H, P, d); key, value: (1, KV heads, P, d), of which the first T tokens are real and
    the rest padding. Returns (1, P, H, d), zero for padding, and no weights.
    """
    assert attention_mask is None, "the plan holds the masks"
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    token_count = step_plan.token_count
    queries = query[0]
    head_count, padded_count, head_dim = queries.shape
    kv_store.write(
        layer,
        step_plan.slots,
        key[0].transpose(0, 1)[:token_count],
        value[0].transpose(0, 1)[:token_count],
    )
    scale = head_dim**-0.5 if scaling is None else scaling
    output = query.new_empty((padded_count, head_count, head_dim))
    output[token_count:] = 0
    for row in step_plan.rows:
        span = row.key_span(sliding_window)
        rows = slice(row.token_start, row.token_stop)
        if len(span.pieces) > 1:
            output[rows] = _attend_pieces(queries[:, rows], kv_store, layer, span, scale)
            continue
        keys, values = _read(kv_store, layer, span.pieces[0])
        output[rows] = _attend(queries[:, rows], keys, values, span, scale, softcap)
    return output.unsqueeze(0), None


def _read(store: PagedKvStore, layer: int, piece: KeyPiece) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `piece`, each (KV heads, count, d)."""
    if piece.first_slot is not None:
        keys, values = store.view(layer, piece.first_slot, piece.count)
    else:
        assert piece.blocks is not None
        keys, values = store.gather(layer, piece.blocks, piece.offset, piece.count)
    return keys.transpose(0, 1), values.transpose(0, 1)


def _attend_pieces(
    query: torch.Tensor, store: PagedKvStore, layer: int, span: KeySpan, scale: float
) -> torch.Tensor:
    """Attention of one token, query (H, 1, d), piece by piece; returns (1, H, d).

    The pieces' outputs are weighed by their shares of the softmax, as FlashAttention does
    (Dao et al., 2022). Cuts depend on the token's position alone, so its bits do, too, wherever
    its blocks lie.
    """
    outputs, shares = [], []
    for piece in span.pieces:
        keys, values = _read(store, layer, piece)
        grouped = query.reshape(1, keys.shape[0], -1, query.shape[-1])
        out, share = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            grouped, keys[None], values[None], scale=scale
        )
        outputs.append(out[0])
        shares.append(share[0])
    weights = torch.softmax(torch.stack(shares), dim=0)
    merged = (torch.stack(outputs) * weights[..., None].to(query.dtype)).sum(0)
    return merged.reshape(1, query.shape[0], query.shape[-1])


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    span: KeySpan,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of one row: query (H, n, d), key and value (KV heads, m, d); returns (n, H, d)."""
    head_count, count, head_dim = query.shape
    group = head_count // key.shape[0]
    if span.is_causal:
        assert softcap is None
        out = F.scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scale, enable_gqa=group > 1
        )
        return out[0].transpose(0, 1)
    # The query heads that share a KV head become rows of one matrix: no repeated keys, and 2 to 4
    # times faster than letting the kernel repeat them for a single token.
    grouped = query.reshape(key.shape[0], group * count, head_dim)
    if softcap is None:
        out = F.scaled_dot_product_attention(
            grouped[None], key[None], value[None], attn_mask=span.mask, scale=scale
        )[0]
    else:
        out = _softcapped(grouped, key, value, span.mask, scale, softcap)
    return out.reshape(head_count, count, head_dim).transpose(0, 1)


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    scores = torch.tanh(torch.matmul(query, key.transpose(1, 2)) * scale / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value)
