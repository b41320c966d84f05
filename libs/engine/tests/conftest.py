"""Fixtures of the engine's tests: one thread, and checkpoints made once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shoal_engine.testing import make_checkpoint

CheckpointMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share cores: one torch thread, whatever a test before set."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """Make a tiny checkpoint of an architecture, once per combination. Tests must not change it."""
    made: dict[tuple[object, ...], Path] = {}

    def make(architecture: str = "LlamaForCausalLM", **changes: object) -> Path:
        key = (architecture, *sorted(changes.items()))
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp("model"), architecture, **changes)
        return made[key]

    return make
