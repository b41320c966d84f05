"""Shared pieces of the recipe's tests: small, so that the whole folder runs in seconds."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

# The recipe is run from its folder and not installed, so the tests put that folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recipe.corpus import DRAFT_MIX
from recipe.presets import Preset, Shape
from recipe.tables import Tables, load_tables
from recipe.tokenizer import build_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: sums are then the same in every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tables() -> Tables:
    return load_tables()


@pytest.fixture(scope="session")
def tokenizer(tables: Tables) -> Tokenizer:
    """A full-size vocabulary learned from few chats."""
    return build_tokenizer(0, tables, sample_count=3000)


@pytest.fixture
def tiny() -> Preset:
    """A preset small enough to train a few steps in a test."""
    return Preset(
        name="tiny",
        shape=Shape(32, 64, layer_count=2, head_count=2, kv_head_count=1, head_dim=16),
        mix=DRAFT_MIX,
        token_budget=20_000,
        echo_budget=4_000,
        decay_share=0.4,
        batch_tokens=600,
    )
