"""Blocks of GGUF files become the numbers that were meant, in the order that is expected."""

import gguf
import numpy as np
import pytest
import torch

from shoal_engine.gguf_blocks import problem_of, read_blocks

SHAPE = (8, 256)
# What the package can write; of the others only reading exists.
WRITTEN = {"F32": 0.0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.02, "Q5_1": 0.1, "Q5_0": 0.15}
WRITTEN |= {"Q4_1": 0.2, "Q4_0": 0.3}
READ = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ1_M")


def blocks_of(values: np.ndarray, type_name: str) -> np.ndarray:
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name])
    return np.ascontiguousarray(quantized).view(np.uint8).reshape(-1)


def values_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("type_name", WRITTEN)
def test_what_was_written_is_read_back(type_name: str) -> None:
    values = values_of(SHAPE)
    data = blocks_of(values, type_name)
    dtype = f"GGUF:{type_name}"
    assert problem_of(dtype, SHAPE, data.size, 0) == ""
    tensor = read_blocks(data, dtype, SHAPE)
    assert tensor.shape == SHAPE
    largest = float(np.abs(tensor.float().numpy() - values).max())
    assert largest <= WRITTEN[type_name] * np.abs(values).max()


def test_numbers_stored_one_by_one_keep_their_format_and_need_no_alignment() -> None:
    values = values_of(SHAPE)
    for type_name, dtype in (("F32", torch.float32), ("F16", torch.float16)):
        data = blocks_of(values, type_name)
        shifted = np.frombuffer(b"x" + data.tobytes(), np.uint8, data.size, 1)
        tensor = read_blocks(shifted, f"GGUF:{type_name}", SHAPE)
        assert tensor.dtype is dtype
        assert torch.equal(tensor, torch.from_numpy(values).to(dtype))


@pytest.mark.parametrize("type_name", READ)
def test_every_row_is_read_by_itself(type_name: str) -> None:
    values, size = gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    row_bytes = 256 // values * size
    data = np.random.default_rng(1).integers(0, 120, 8 * row_bytes, dtype=np.uint8)
    dtype = f"GGUF:{type_name}"
    assert problem_of(dtype, SHAPE, data.size, 0) == ""
    whole = read_blocks(data, dtype, SHAPE)
    for row in range(8):
        alone = read_blocks(data[row * row_bytes : (row + 1) * row_bytes], dtype, (1, 256))
        assert torch.equal(alone[0], whole[row])


def test_q4_k_is_what_its_definition_says() -> None:
    """One block: 8 groups of 32, each with 6-bit scale and minimum beside two half floats."""
    scales, minima = [3, 7, 11, 15, 19, 33, 41, 63], [1, 2, 3, 4, 5, 40, 50, 63]
    packed = bytearray(12)
    for group in range(4):
        packed[group] = scales[group] | (scales[group + 4] >> 4) << 6
        packed[group + 4] = minima[group] | (minima[group + 4] >> 4) << 6
        packed[group + 8] = (scales[group + 4] & 15) | (minima[group + 4] & 15) << 4
    nibbles = [(group * 5 + index) % 16 for group in range(8) for index in range(32)]
    halves = bytearray()
    for pair in range(4):
        for index in range(32):
            low, high = nibbles[pair * 64 + index], nibbles[pair * 64 + 32 + index]
            halves.append(low | high << 4)
    header = np.array([0.5, 0.25], dtype="<f2").tobytes()
    data = np.frombuffer(header + bytes(packed) + bytes(halves), np.uint8)
    expected = [
        0.5 * scales[position // 32] * nibbles[position] - 0.25 * minima[position // 32]
        for position in range(256)
    ]
    assert read_blocks(data, "GGUF:Q4_K", (256,)).tolist() == expected


@pytest.mark.parametrize("shape", [(24, 16), (24,)], ids=["weight", "bias"])
def test_rows_of_queries_and_keys_are_put_back(shape: tuple[int, ...]) -> None:
    """llama.cpp rotates neighbours, transformers halves of a head: 2 heads of 12 rows."""
    original = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    halves = original.reshape(2, 2, 6, *shape[1:])
    stored = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))
    assert not np.array_equal(stored, original)
    tensor = read_blocks(blocks_of(stored, "F32"), "GGUF:F32", shape, permuted_heads=2)
    assert torch.equal(tensor, torch.from_numpy(original))
    assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("dtype", "shape", "size_bytes", "heads", "problem"),
    [
        ("GGUF:Q9_Z", (8, 256), 2176, 0, "stored as GGUF:Q9_Z"),
        ("GGUF:I8", (8, 256), 2048, 0, "stored as GGUF:I8"),
        ("GGUF:Q8_0", (8, 48), 408, 0, "no whole blocks of 32"),
        ("GGUF:Q8_0", (8, 256), 2175, 0, "do not take 2175 bytes"),
        ("GGUF:Q8_0", (), 34, 0, "its shape"),
        ("GGUF:Q8_0", (0, 32), 0, 0, "its shape"),
        ("GGUF:F32", (8, 256), 8192, 3, "not those of 3 heads"),
        ("GGUF:F32", (8, 256), 8192, -1, "no number"),
    ],
)
def test_descriptions_that_make_no_sense_are_named(
    dtype: str, shape: tuple[int, ...], size_bytes: int, heads: int, problem: str
) -> None:
    assert problem in problem_of(dtype, shape, size_bytes, heads)
