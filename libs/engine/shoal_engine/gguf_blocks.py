"""Tensors in the blocks of GGUF files, turned into numbers when they are loaded.

Owns which types can be read, how large their tensors are, and the order of rows in which llama.cpp
wants queries and keys. Does not know files: bytes come in, a tensor goes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGML_QUANT_SIZES

Bytes = npt.NDArray[np.uint8]

PREFIX = "GGUF:"
"""Marks the dtype of such a tensor in a manifest: `GGUF:Q4_K`."""

_PLAIN: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_BLOCKS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"),
)


def problem_of(dtype: str, shape: tuple[int, ...], size_bytes: int, permuted_heads: int) -> str:
    """Why a tensor that is described like this cannot be read; empty when it can.

    shape: rows first, as in a Hugging Face checkpoint.
    """
    type_name = dtype.removeprefix(PREFIX)
    if type_name not in _PLAIN and type_name not in _BLOCKS:
        return f"it is stored as {dtype[:40]}; known are {', '.join((*_PLAIN, *_BLOCKS))}"
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        return f"its shape is {shape}"
    values_per_block, bytes_per_block = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    if shape[-1] % values_per_block:
        return f"rows of {shape[-1]} values are no whole blocks of {values_per_block}"
    if math.prod(shape) // values_per_block * bytes_per_block != size_bytes:
        return f"{shape} values of {type_name} do not take {size_bytes} bytes"
    if type(permuted_heads) is not int or permuted_heads < 0:
        return "its number of heads is no number"
    if permuted_heads and shape[0] % (2 * permuted_heads):
        return f"{shape[0]} rows are not those of {permuted_heads} heads"
    return ""


def read_blocks(
    data: Bytes, dtype: str, shape: tuple[int, ...], permuted_heads: int = 0
) -> torch.Tensor:
    """The tensor whose bytes are `data`, of which nothing is kept.

    Numbers that were stored one by one stay in their format; what was in blocks is float32, exactly
    as llama.cpp reads it. permuted_heads: the rows are in llama.cpp's order, of so many heads;
    they are put back into that of a Hugging Face checkpoint. What `problem_of` objects to must not
    be asked for.
    """
    type_name = dtype.removeprefix(PREFIX)
    if type_name in _PLAIN:
        # A tensor's own memory is aligned; a mapped file's lies at any address.
        tensor = torch.from_numpy(data.copy()).view(_PLAIN[type_name]).reshape(shape)
    else:
        rows = data.reshape(math.prod(shape[:-1]), -1)
        values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[type_name])
        tensor = torch.from_numpy(values).reshape(shape)
    return _unpermuted(tensor, permuted_heads) if permuted_heads else tensor


def _unpermuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Neighbours become halves of a head again, which is how transformers rotates them."""
    pairs = tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()
