"""Steady activations say what torch says, and the same wherever an element lies."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from shoal_engine.activations import steady

NAMES = ("silu", "swish", "gelu_pytorch_tanh", "gelu")


def replaced(name: str) -> nn.Module:
    owner = nn.ModuleDict({"act": ACT2FN[name]})
    steady(owner)
    assert type(owner["act"]) is not type(ACT2FN[name])
    return owner["act"]


def values(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_torch(name: str) -> None:
    rows = torch.cat([values(5000), torch.tensor([0.0, -0.0, 80.0, -80.0, 200.0, -200.0, 1e-30])])
    kept = rows.clone()
    torch.testing.assert_close(replaced(name)(rows), ACT2FN[name](rows), rtol=1e-5, atol=1e-6)
    assert torch.equal(rows, kept)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [4864, 100, 33])
def test_rows_are_bitwise_the_same_in_any_number_on_any_threads(name: str, width: int) -> None:
    act = replaced(name)
    rows = values(40, width)
    expected = torch.cat([act(row[None]) for row in rows])
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        for count in range(1, 41, 3):
            assert torch.equal(act(rows[:count]), expected[:count]), (threads, count)


def test_other_functions_are_left_alone() -> None:
    owner = nn.ModuleDict({"act": nn.ReLU(), "linear": nn.Linear(2, 2)})
    steady(owner)
    assert isinstance(owner["act"], nn.ReLU)
