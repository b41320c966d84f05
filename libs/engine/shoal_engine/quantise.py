"""Linear layers in int8 on a CPU, each row by itself.

Owns the number format: weights and activations as integers, what is exact about their products,
and packing for the kernel (fbgemm, through torch). Does not know models or checkpoints.

Each row of activations is divided by its own largest magnitude and becomes integers in
[-127, 127]; each output channel of the weights has its own scale. The kernel (AVX2) multiplies
bytes and adds two products in 16 bits before it widens them, so weights are scaled such that two
neighbours never add up to more than 128: no sum saturates, every sum is exact, and a row's result
depends neither on other rows nor on the number of threads. Large single weights thus keep 7 bits,
typical rows about 7.5, activations all 8.
"""

import math
import warnings
from typing import Any

import torch
from torch import nn

ACTIVATION_MAX = 127
_ACTIVATION_ZERO_POINT = 128
_PAIR_MAX = 127.0  # Rounding may add 1; 255 * 128 fits 16 bits, 255 * 129 does not.
_SMALLEST = 1e-30
_CHUNK_ELEMENTS = 1 << 21
_KERNEL_DEPTH = 512
"""Inputs that a block of packed weights holds; the last block is filled up."""
_BYTES_PER_OUTPUT = 12
"""Scale, zero point and column sum of an output channel."""


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8 and whose rows do not know one another.

    Takes (..., K) float32 and gives (..., N) float32. A row that is not finite gives a row that is
    not finite and leaves the others as they are.
    """

    def __init__(
        self, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        """weight: (N, K) int8 from `quantised`. scales: (N,). bias: (N,) float32."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = _pack(weight, scales)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights, without the bias."""
        return packed_bytes(self.out_features, self.in_features)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., K) float32 -> (..., N) float32."""
        largest = rows.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)
        product: torch.Tensor = _multiply(rows / largest, self._packed)
        product *= largest
        if self.bias is not None:
            # Not in the call above: there it would be multiplied by the row's magnitude.
            product += self.bias
        return product


class StoredEmbedding(nn.Module):
    """An embedding that stays in the format of the checkpoint; rows are widened at look-up."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor | None) -> None:
        """weight: (V, D), any float format. scale: multiplies the looked-up rows, in float32."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._scale = scale

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(...,) int64 -> (..., D) float32."""
        rows = nn.functional.embedding(token_ids, self.weight).float()
        return rows if self._scale is None else rows * self._scale


def quantised(
    weight: torch.Tensor,
    row_divisor: torch.Tensor | None = None,
    column_factor: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers (N, K) and scales (N,) of `weight` (N, K) in any float format.

    The weight is multiplied by `column_factor` (K,) and divided by `row_divisor` (N,) first. Works
    in slices, so that the weight in float32 never exists as a whole.
    """
    row_count, width = weight.shape
    integers = torch.empty((row_count, width), dtype=torch.int8)
    scales = torch.empty(row_count, dtype=torch.float32)
    for rows in slices(row_count, width):
        part = weight[rows].to(torch.float32, copy=True)
        if column_factor is not None:
            part *= column_factor
        if row_divisor is not None:
            part /= row_divisor[rows, None]
        scale = _scales(part)
        integers[rows] = part.div_(scale[:, None]).round_().to(torch.int8)
        scales[rows] = scale
    return integers, scales


def slices(row_count: int, width: int) -> list[slice]:
    """Ranges of whole rows, each of a few MiB, that cover a matrix."""
    step = max(1, _CHUNK_ELEMENTS // max(1, width))
    return [slice(start, min(row_count, start + step)) for start in range(0, row_count, step)]


def packed_bytes(out_features: int, in_features: int) -> int:
    """Memory that a linear layer's packed int8 weights take."""
    depth = math.ceil(in_features / _KERNEL_DEPTH) * _KERNEL_DEPTH
    return out_features * (depth + _BYTES_PER_OUTPUT)


def kernel_is_exact() -> bool:
    """True where this machine has the kernel and it computes what this module relies on.

    Multiplies the largest integers that may meet and compares with the exact sums.
    """
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return False
    weight = torch.tensor([[1, 127], [-64, -64], [127, -127]], dtype=torch.int8).repeat(1, 48)
    rows = torch.tensor([[127], [-127], [1]]).repeat(1, weight.shape[1])
    product = _multiply(rows / ACTIVATION_MAX, _pack(weight, torch.ones(weight.shape[0])))
    exact = (rows @ weight.long().T) / ACTIVATION_MAX
    return torch.allclose(product, exact.float(), rtol=1e-6, atol=1e-4)


def _scales(part: torch.Tensor) -> torch.Tensor:
    """Scale (N,) of each row: two neighbouring integers of one sign never add up to over 128."""
    even = nn.functional.pad(part, (0, part.shape[1] % 2)).view(part.shape[0], -1, 2)
    above = even.clamp_min(0).sum(-1).amax(-1)
    below = even.clamp_max(0).sum(-1).amin(-1).neg_()
    return torch.maximum(above, below).div_(_PAIR_MAX).clamp_min_(_SMALLEST)


def _multiply(unit_rows: torch.Tensor, packed: Any) -> torch.Tensor:
    """Product of rows in [-1, 1] with packed weights."""
    product: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        unit_rows, 1.0 / ACTIVATION_MAX, _ACTIVATION_ZERO_POINT, packed
    )
    return product


def _pack(weight: torch.Tensor, scales: torch.Tensor) -> Any:
    zero_points = torch.zeros(weight.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():
        # The pinned torch announces that a later one will drop its quantised tensors.
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor")
        marked = torch._make_per_channel_quantized_tensor(weight, scales.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(marked, None)
