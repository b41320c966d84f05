"""Evens out channels before weights become int8, without changing what the model computes.

Trained models have a few channels tens of times larger than the others; in int8 they leave the
others a handful of integers. Where two steps follow each other and the first is linear in its
scale (a norm and the projections behind it, values and the output projection, `up` and `down` of
a gated MLP), a channel can be divided in the first and multiplied in the second.

The idea is SmoothQuant's; the sizes come from the weights alone. What a channel carries is
estimated by the norm's weight, or by the length of the weight row that makes it, for inputs of
unit size. So a stage needs nothing but its own tensors, and the result cannot depend on how layers
are split into stages. Factors are powers of two, which float32 multiplies without rounding, and
channels within a factor of two of the typical one are left alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shoal_engine.quantise import slices

_EXPONENT_MAX = 8
# Weights of these norms are stored as their distance from 1.
_NORMS_AROUND_ONE = ("Gemma2RMSNorm",)


@dataclass(frozen=True)
class Block:
    """A norm, the linear layers that read it, and one that reads what they make.

    Names are those of modules. middle_start: first row of the last reader whose outputs reach
    `output` as factors; None where nothing can be folded there. Each middle channel of a head of
    `head_dim` is read by `group` heads of `output`.
    """

    norm: str
    readers: tuple[str, ...]
    output: str | None = None
    middle_start: int | None = None
    head_dim: int = 1
    group: int = 1

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules of the block."""
        return (self.norm, *self.readers, *((self.output,) if self.output else ()))


@dataclass
class Fold:
    """Factors of a module's weight: columns (K,) are multiplied, rows (N,) divided."""

    columns: torch.Tensor | None = None
    rows: torch.Tensor | None = None


def blocks_of(model: Any, layer: int) -> list[Block]:
    """The attention and the MLP block of one layer of a model definition."""
    config = model.config
    prefix = f"model.layers.{layer}"
    attention = model.get_submodule(f"{prefix}.self_attn")
    mlp = model.get_submodule(f"{prefix}.mlp")
    head_dim = int(attention.head_dim)
    kv_width = int(config.num_key_value_heads) * head_dim
    return [
        _block(
            model,
            f"{prefix}.input_layernorm",
            _named(attention, f"{prefix}.self_attn", ("qkv_proj",), ("q_proj", "k_proj", "v_proj")),
            f"{prefix}.self_attn.o_proj",
            kv_width,
            head_dim,
            int(config.num_attention_heads) // int(config.num_key_value_heads),
        ),
        _mlp_block(model, prefix, mlp),
    ]


def head_block() -> Block:
    """The final norm and the head."""
    return Block("model.norm", ("lm_head",))


def _mlp_block(model: Any, prefix: str, mlp: Any) -> Block:
    norm = f"{prefix}.post_attention_layernorm"
    if hasattr(model.get_submodule(prefix), "pre_feedforward_layernorm"):
        norm = f"{prefix}.pre_feedforward_layernorm"
    if hasattr(mlp, "c_fc"):  # The activation function stands between the two products.
        return Block(norm, (f"{prefix}.mlp.c_fc",))
    readers = _named(mlp, f"{prefix}.mlp", ("gate_up_proj",), ("gate_proj", "up_proj"))
    output = f"{prefix}.mlp.down_proj"
    return _block(model, norm, readers, output, int(model.get_submodule(output).in_features), 1, 1)


def _block(
    model: Any,
    norm: str,
    readers: tuple[str, ...],
    output: str,
    middle_width: int,
    head_dim: int,
    group: int,
) -> Block:
    middle_start = int(model.get_submodule(readers[-1]).out_features) - middle_width
    return Block(norm, readers, output, middle_start, head_dim, group)


def _named(module: Any, prefix: str, *choices: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the first choice that `module` has, with its prefix."""
    names = next(names for names in choices if all(hasattr(module, name) for name in names))
    return tuple(f"{prefix}.{name}" for name in names)


def folds_of(model: Any, block: Block, tensors: Mapping[str, torch.Tensor]) -> dict[str, Fold]:
    """What to multiply and divide in the modules of `block`.

    tensors: all weights and biases of the block by name, in their stored formats.
    """
    folds = {name: Fold() for name in block.modules}
    gain = norm_gain(model, block.norm, tensors[f"{block.norm}.weight"])
    readers = [tensors[f"{name}.weight"] for name in block.readers]
    factors = _factors(gain.abs(), _column_sizes(readers))
    folds[block.norm].rows = factors
    for name in block.readers:
        folds[name].columns = factors
    if block.output is None:
        return folds
    assert block.middle_start is not None
    last = block.readers[-1]
    bias = tensors.get(f"{last}.bias")
    made = _row_sizes(readers[-1], gain, bias)[block.middle_start :]
    read = _column_sizes([tensors[f"{block.output}.weight"]])
    heads = read.view(-1, block.group, block.head_dim)
    inner = _factors(made, heads.amax(1).flatten())
    rows = torch.ones(readers[-1].shape[0])
    rows[block.middle_start :] = inner
    folds[last].rows = rows
    spread = inner.view(-1, 1, block.head_dim).expand(heads.shape)
    folds[block.output].columns = spread.flatten()
    return folds


def norm_gain(model: Any, norm: str, weight: torch.Tensor) -> torch.Tensor:
    """(D,) float32: what the norm multiplies each channel by."""
    return weight.float() + _offset(model, norm)


def folded_norm(model: Any, norm: str, weight: torch.Tensor, fold: Fold) -> torch.Tensor:
    """The norm's weight with the fold in it, float32."""
    assert fold.rows is not None
    return norm_gain(model, norm, weight) / fold.rows - _offset(model, norm)


def _offset(model: Any, norm: str) -> float:
    return 1.0 if type(model.get_submodule(norm)).__name__ in _NORMS_AROUND_ONE else 0.0


def _factors(made: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """What each channel is divided by where it is made and multiplied by where it is read.

    made, read: sizes (C,) on both sides. Equal sizes on both sides after the fold would halve
    errors best; only the part of it that is at least a factor of two is taken.
    """
    is_used = (made > 0) & (read > 0) & torch.isfinite(made) & torch.isfinite(read)
    if not bool(is_used.any()):
        return torch.ones_like(made)
    exponents = (torch.log2(made) - torch.log2(read)) / 2
    exponents -= exponents[is_used].median()
    whole = exponents.trunc().clamp_(-_EXPONENT_MAX, _EXPONENT_MAX)
    return torch.where(is_used, torch.exp2(whole), 1.0)


def _column_sizes(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """(K,): the largest magnitude in each column of matrices (N, K)."""
    largest = torch.zeros(weights[0].shape[1])
    for weight in weights:
        for rows in slices(*weight.shape):
            torch.maximum(largest, weight[rows].abs().amax(0).float(), out=largest)
    return largest


def _row_sizes(weight: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(N,): how large each output is for normed inputs of unit size."""
    squares = torch.empty(weight.shape[0])
    for rows in slices(*weight.shape):
        squares[rows] = (weight[rows].float() * gain).square_().sum(-1)
    return (squares if bias is None else squares + bias.float().square()).sqrt_()
