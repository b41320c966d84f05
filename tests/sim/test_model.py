"""The model of the simulation: any split says the same, and one wrong byte shows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from shoal_engine.blocks import SequenceKv
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.base import StepInput, StepRow
from tests.sim.model import STOP_IDS, LayeredBackend, expected_ids

PROMPT = tuple(range(20, 41))
WANTED: Any = object()


class Pipeline:
    """Backends behind one another, with one sequence."""

    def __init__(self, *cuts: int) -> None:
        self.backends = [
            LayeredBackend(
                start,
                stop,
                6,
                block_count=32,
                block_size_tokens=4,
                context_length=128,
                now=lambda: 0.0,
            )
            for start, stop in pairwise((0, *cuts, 6))
        ]
        self.kvs: list[SequenceKv] = [b.pool.sequence(100) for b in self.backends]
        self.position = 0

    def feed(self, ids: tuple[int, ...]) -> int:
        """Positions behind those fed before; returns the next token."""
        payload = b""
        for backend, kv in zip(self.backends, self.kvs, strict=True):
            layers = LayerRange(backend.layer_start, backend.layer_stop)
            row = StepRow(kv, self.position, len(ids), WANTED if layers.stop == 6 else None)
            step = StepInput([row], layers, token_ids=ids, activations=[payload])
            output = backend.run(step)
            payload = output.activations
        self.position += len(ids)
        (sampled,) = output.sampled
        assert sampled is not None
        return sampled.token_id


@pytest.mark.parametrize("cuts", [(), (2,), (1, 4)])
def test_any_split_says_what_is_expected(cuts: tuple[int, ...]) -> None:
    pipeline = Pipeline(*cuts)
    pipeline.feed(PROMPT[:7])
    said = [pipeline.feed(PROMPT[7:])]
    while len(said) < 30 and said[-1] not in STOP_IDS:
        said.append(pipeline.feed((said[-1],)))
    assert tuple(said) == expected_ids(PROMPT, 30, 6)


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_one_wrong_byte_in_one_layer_changes_what_follows(layer: int) -> None:
    right, wrong = Pipeline(), Pipeline()
    assert right.feed(PROMPT) == wrong.feed(PROMPT)
    wrong.backends[0].spoil(layer, wrong.kvs[0].blocks[2])
    assert right.feed((50,)) != wrong.feed((50,))


def test_a_row_that_does_not_begin_where_its_kv_ends_is_an_error() -> None:
    pipeline = Pipeline()
    pipeline.feed(PROMPT)
    pipeline.position -= 1
    with pytest.raises(AssertionError, match="where its KV ends"):
        pipeline.feed((50,))
