"""Padding makes the last bits of a row independent of the number of rows."""

import pytest
import torch
import torch.nn.functional as F

from shoal_engine.padding import padded_row_count


def test_one_thread_pads_nothing_unless_strict() -> None:
    for count in (1, 3, 4, 5, 9):
        assert padded_row_count(count, threads=1, is_strict=False) == count


def test_strict_pads_to_four_rows() -> None:
    padded = [padded_row_count(n, 1, is_strict=True) for n in (1, 3, 4, 5)]
    assert padded == [4, 4, 4, 8]


def test_several_threads_pad_to_a_multiple_of_four() -> None:
    padded = [padded_row_count(n, 2, is_strict=False) for n in (3, 4, 5, 9)]
    assert padded == [3, 4, 8, 12]


@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_padded_rows_agree_bitwise(threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(768, 256, generator=generator)
    rows = torch.randn(64, 256, generator=generator)
    expected = F.linear(rows, weight)
    for count in range(4, 30):
        padded = padded_row_count(count, threads, is_strict=False)
        product = F.linear(F.pad(rows[:count], (0, 0, 0, padded - count)), weight)
        assert torch.equal(product[:count], expected[:count]), count
