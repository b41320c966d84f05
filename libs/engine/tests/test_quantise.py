"""Int8 layers: sums are exact, and no row knows another."""

import pytest
import torch

from shoal_engine.quantise import (
    Int8Linear,
    StoredEmbedding,
    kernel_is_exact,
    packed_bytes,
    quantised,
)

ROW_COUNTS = (1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 127, 128)


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
    return Int8Linear(*quantised(weight), bias)


def test_this_machine_has_the_kernel() -> None:
    assert kernel_is_exact()


@pytest.mark.parametrize(
    ("width", "outputs"),
    [(896, 1152), (2048, 512), (5632, 256), (4864, 130), (256, 32000), (130, 97), (33, 7), (1, 1)],
)
def test_rows_are_bitwise_the_same_in_any_number_on_any_threads(width: int, outputs: int) -> None:
    layer = layer_of(noise(outputs, width), noise(outputs, seed=1))
    rows = noise(128, width, seed=2) * torch.logspace(-3, 3, 128)[:, None]
    expected = torch.cat([layer(row[None]) for row in rows])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for count in ROW_COUNTS:
            assert torch.equal(layer(rows[:count]), expected[:count]), (threads, count)
            assert torch.equal(layer(rows[-count:]), expected[-count:]), (threads, count)


@pytest.mark.parametrize("width", [2, 7, 130, 1000])
def test_sums_are_exact_however_large_weights_and_rows_are(width: int) -> None:
    weight = noise(24, width).sign() * (noise(24, width, seed=1).abs() ** 3 + 0.5)
    weight[:4] = weight[:4].abs()
    integers, scales = quantised(weight)
    rows = noise(6, width, seed=2).mul(60).round().clamp(-127, 127)
    rows[0], rows[1], rows[2:, 0] = 127, -127, 127
    exact = (rows.double() @ integers.double().T) * scales.double()
    torch.testing.assert_close(
        Int8Linear(integers, scales, None)(rows).double(), exact, rtol=1e-5, atol=1e-4
    )


def test_neighbouring_weights_never_overflow_sixteen_bits() -> None:
    weight = torch.cat([noise(64, 600) * 9, noise(64, 600).abs(), torch.full((1, 600), -3.0)])
    pairs = quantised(weight)[0].long().view(129, 300, 2)
    assert int(pairs.clamp_min(0).sum(-1).max()) <= 128
    assert int(pairs.clamp_max(0).sum(-1).min()) >= -128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_products_are_close_to_those_in_float(dtype: torch.dtype) -> None:
    weight = noise(400, 1024).to(dtype)
    rows = noise(16, 1024, seed=1)
    exact = rows @ weight.float().T
    error = (layer_of(weight)(rows) - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.015


def test_each_output_has_its_own_scale() -> None:
    weight = noise(50, 512)
    weight[0] *= 1000
    rows = noise(8, 512, seed=1)
    exact = rows @ weight.T
    error = (layer_of(weight)(rows) - exact).norm(dim=0) / exact.norm(dim=0)
    assert float(error.max()) < 0.05


def test_factors_go_into_rows_and_columns() -> None:
    weight = noise(40, 64)
    divisor, factor = noise(40, seed=1).exp2(), noise(64, seed=2).exp2()
    folded = quantised(weight, divisor, factor)
    plain = quantised(weight * factor / divisor[:, None])
    assert torch.equal(folded[0], plain[0])
    assert torch.equal(folded[1], plain[1])


def test_zero_rows_and_zero_weights_give_the_bias() -> None:
    bias = noise(20, seed=3)
    weight = noise(20, 64)
    weight[3] = 0
    layer = layer_of(weight, bias)
    assert torch.equal(layer(torch.zeros(2, 64)), bias.expand(2, 20))
    assert float(layer(noise(1, 64))[0, 3]) == float(bias[3])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, 1e-40])
def test_an_odd_row_spoils_no_other(value: float) -> None:
    layer = layer_of(noise(48, 256))
    rows = noise(5, 256, seed=1)
    expected = layer(rows)
    rows[2, 7] = value
    spoilt = layer(rows)
    others = [0, 1, 3, 4]
    assert torch.equal(spoilt[others], expected[others])
    if abs(value) < 1e38:
        assert torch.isfinite(spoilt).all()
    else:
        assert not torch.isfinite(spoilt[2]).any() or abs(value) == 3e38


def test_leading_dimensions_are_kept() -> None:
    layer = layer_of(noise(10, 32))
    rows = noise(6, 32)
    assert torch.equal(layer(rows.view(1, 2, 3, 32)), layer(rows).view(1, 2, 3, 10))


def test_packed_size_is_filled_up_to_whole_blocks() -> None:
    assert packed_bytes(100, 512) == 100 * 524
    assert packed_bytes(100, 513) == 100 * 1036
    assert layer_of(noise(10, 32)).packed_bytes == packed_bytes(10, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_embedding_stays_as_stored_and_gives_float32(dtype: torch.dtype) -> None:
    weight = noise(9, 4).to(dtype)
    ids = torch.tensor([[8, 0, 8]])
    embedding = StoredEmbedding(weight, None)
    assert embedding.weight.data_ptr() == weight.data_ptr()
    assert torch.equal(embedding(ids), weight[ids].float())
    scaled = StoredEmbedding(weight, torch.tensor(1.7))
    assert torch.equal(scaled(ids), weight[ids].float() * torch.tensor(1.7))
