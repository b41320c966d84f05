"""What state each layer keeps between steps.

Owns the decision from the model's layer types to a kind of storage. The stores themselves live
elsewhere (`kv_store` for paged KV).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shoal_engine.errors import UnsupportedModel
from shoal_engine.shape import LayerRange, ModelShape


class CacheKind(StrEnum):
    """How a layer remembers earlier positions."""

    PAGED = "paged"
    """Keys and values of every position in fixed-size blocks."""
    WINDOW = "window"
    """Keys and values of the last positions only; blocks before them could be freed."""
    LATENT = "latent"
    """One compressed vector per position (multi-head latent attention)."""
    RECURRENT = "recurrent"
    """A state of fixed size per sequence (state-space and linear attention)."""


@dataclass(frozen=True)
class CacheSpec:
    """The state of one layer; `layer` is its absolute index in the model."""

    layer: int
    kind: CacheKind
    kv_head_count: int
    head_dim: int

    @property
    def elements_per_position(self) -> int:
        """Numbers kept for one position: a key and a value per KV head."""
        return 2 * self.kv_head_count * self.head_dim


# Sliding-window layers keep their KV in pages like the others and look only at the last positions:
# one block table serves all layers of a sequence, and a shared prefix stays shareable.
_KIND_BY_LAYER_TYPE = {
    "full_attention": CacheKind.PAGED,
    "sliding_attention": CacheKind.PAGED,
    "chunked_attention": CacheKind.WINDOW,
    "linear_attention": CacheKind.RECURRENT,
    "mamba": CacheKind.RECURRENT,
    "conv": CacheKind.RECURRENT,
}


def cache_specs(
    layer_types: Sequence[str] | None, shape: ModelShape, layers: LayerRange
) -> list[CacheSpec]:
    """One spec per layer of `layers`; `layer_types` covers the whole model, None means all full.

    Raises UnsupportedModel for a layer whose kind of state has no store yet.
    """
    types = list(layer_types) if layer_types else ["full_attention"] * shape.layer_count
    if len(types) != shape.layer_count:
        raise UnsupportedModel(f"{len(types)} layer types for {shape.layer_count} layers")
    specs = []
    for layer in range(layers.start, layers.stop):
        kind = _KIND_BY_LAYER_TYPE.get(types[layer])
        if kind is not CacheKind.PAGED:
            raise UnsupportedModel(
                f"layer {layer} is {str(types[layer])[:50]!r}, which needs "
                f"{kind or 'unknown'} state; only paged state is stored"
            )
        specs.append(CacheSpec(layer, kind, shape.kv_head_count, shape.head_dim))
    return specs
