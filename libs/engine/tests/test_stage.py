"""A stage checks its batches, moves lengths, and gives the logits that were asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shoal_engine.blocks import SequenceKv
from shoal_engine.errors import InvalidBatch
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_engine.testing import LAYER_COUNT, VOCAB_SIZE, prompt_of

CheckpointMaker = Callable[..., Path]


@pytest.fixture
def whole(checkpoint: CheckpointMaker) -> Stage:
    return load_stage(checkpoint(), LayerRange(0, LAYER_COUNT), StageOptions(kv_blocks=8))


@pytest.fixture
def last(checkpoint: CheckpointMaker) -> Stage:
    return load_stage(checkpoint(), LayerRange(2, LAYER_COUNT), StageOptions(kv_blocks=8))


def ids(count: int) -> torch.Tensor:
    return torch.tensor(prompt_of(count))


def test_first_stage_gives_hidden_rows(checkpoint: CheckpointMaker) -> None:
    for strict in (False, True):
        options = StageOptions(kv_blocks=8, strict_exact=strict)
        stage = load_stage(checkpoint(), LayerRange(0, 2), options)
        output = stage.forward(StageBatch([Row(stage.pool.sequence(3), 0, 3)], ids(3)))
        assert output.logits is None
        assert output.hidden is not None
        assert output.hidden.shape == (3, 32)


def test_only_rows_that_want_logits_get_them(whole: Stage) -> None:
    rows = [Row(whole.pool.sequence(4), 0, 4, wants) for wants in (True, False, True)]
    output = whole.forward(StageBatch(rows, ids(12)))
    assert output.hidden is None
    assert output.logits is not None
    assert output.logits.shape == (2, VOCAB_SIZE)
    assert output.logits.dtype is torch.float32
    kv = whole.pool.sequence(4)
    alone = whole.forward(StageBatch([Row(kv, 0, 4)], ids(12)[8:]))
    assert alone.logits is not None
    assert torch.equal(alone.logits[0], output.logits[1])


def test_no_row_may_want_logits(whole: Stage) -> None:
    row = Row(whole.pool.sequence(4), 0, 4, wants_logits=False)
    output = whole.forward(StageBatch([row], ids(4)))
    assert output.logits is not None
    assert output.logits.shape == (0, VOCAB_SIZE)
    assert row.kv.length == 4


def test_lengths_follow_the_rows_and_may_step_back(whole: Stage) -> None:
    kv = whole.pool.sequence(20)
    first = whole.forward(StageBatch([Row(kv, 0, 12)], ids(12)))
    assert kv.length == 12
    whole.forward(StageBatch([Row(kv, 12, 1)], ids(1)))
    assert kv.length == 13
    again = whole.forward(StageBatch([Row(kv, 8, 4)], ids(12)[8:]))
    assert kv.length == 12
    assert first.logits is not None
    assert again.logits is not None
    torch.testing.assert_close(first.logits, again.logits, rtol=1e-4, atol=1e-4)


def test_padding_touches_no_kv(checkpoint: CheckpointMaker) -> None:
    options = StageOptions(kv_blocks=2, strict_exact=True)
    stage = load_stage(checkpoint(), LayerRange(0, LAYER_COUNT), options)
    other, kv = stage.pool.sequence(16), stage.pool.sequence(16)
    stage.forward(StageBatch([Row(other, 0, 15)], ids(15)))
    expected = stage.forward(StageBatch([Row(other, 15, 1)], ids(1))).logits
    stage.forward(StageBatch([Row(kv, 0, 1)], ids(1)))
    again = stage.forward(StageBatch([Row(other, 15, 1)], ids(1))).logits
    assert expected is not None
    assert again is not None
    assert torch.equal(expected, again)


def test_hidden_rows_of_another_dtype_are_accepted(last: Stage) -> None:
    hidden = torch.randn(4, 32).double()
    output = last.forward(StageBatch([Row(last.pool.sequence(4), 0, 4)], hidden=hidden))
    assert output.logits is not None
    assert output.logits.shape == (1, VOCAB_SIZE)


def with_length(kv: SequenceKv, length: int) -> SequenceKv:
    kv.length = length
    return kv


@pytest.mark.parametrize(
    ("position", "count", "stored", "message"),
    [
        (0, 0, 0, "0 tokens at position 0"),
        (-1, 2, 0, "at position -1"),
        (3, 1, 2, "position 3, after 2 stored"),
        (0, 17, 0, "needs 17 positions, its blocks hold 16"),
    ],
)
def test_rows_outside_their_kv_are_refused(
    whole: Stage, position: int, count: int, stored: int, message: str
) -> None:
    kv = with_length(whole.pool.sequence(16), stored)
    with pytest.raises(InvalidBatch, match=message):
        whole.forward(StageBatch([Row(kv, position, count)], ids(count)))
    assert kv.length == stored


def test_positions_beyond_the_context_are_refused(checkpoint: CheckpointMaker) -> None:
    stage = load_stage(checkpoint(), LayerRange(0, 1), StageOptions(kv_blocks=32))
    kv = with_length(stage.pool.sequence(272), 256)
    with pytest.raises(InvalidBatch, match="context is 256"):
        stage.forward(StageBatch([Row(kv, 256, 1)], ids(1)))


def test_refused_batch_writes_nothing(whole: Stage) -> None:
    good = whole.pool.sequence(16)
    bad = whole.pool.sequence(0)
    with pytest.raises(InvalidBatch):
        whole.forward(StageBatch([Row(good, 0, 4), Row(bad, 0, 1)], ids(5)))
    assert (good.length, bad.length) == (0, 0)


@pytest.mark.parametrize(
    "token_ids",
    [
        None,
        ids(3),
        ids(4)[None],
        ids(4).float(),
        torch.tensor([1, 2, 3, VOCAB_SIZE]),
        torch.tensor([-1, 2, 3, 4]),
    ],
    ids=["none", "short", "shape", "float", "above", "below"],
)
def test_bad_tokens_are_refused(whole: Stage, token_ids: torch.Tensor | None) -> None:
    kv = whole.pool.sequence(4)
    with pytest.raises(InvalidBatch):
        whole.forward(StageBatch([Row(kv, 0, 4)], token_ids))
    assert kv.length == 0


@pytest.mark.parametrize("width", [31, 33])
def test_bad_hidden_rows_are_refused(last: Stage, width: int) -> None:
    with pytest.raises(InvalidBatch, match=r"needs? \(4, 32\)"):
        last.forward(StageBatch([Row(last.pool.sequence(4), 0, 4)], hidden=torch.zeros(4, width)))


def test_hidden_rows_of_integers_are_refused(last: Stage) -> None:
    hidden = torch.zeros(4, 32, dtype=torch.int64)
    with pytest.raises(InvalidBatch, match=r"holds torch\.int64"):
        last.forward(StageBatch([Row(last.pool.sequence(4), 0, 4)], hidden=hidden))


def test_stages_take_either_tokens_or_hidden_rows(whole: Stage, last: Stage) -> None:
    with pytest.raises(InvalidBatch, match="takes hidden rows"):
        last.forward(StageBatch([Row(last.pool.sequence(4), 0, 4)], ids(4)))
    row = Row(whole.pool.sequence(4), 0, 4)
    with pytest.raises(InvalidBatch, match="takes token ids"):
        whole.forward(StageBatch([row], ids(4), torch.zeros(4, 32)))


def test_empty_batch_and_doubled_sequence_are_refused(whole: Stage) -> None:
    with pytest.raises(InvalidBatch, match="no rows"):
        whole.forward(StageBatch([], torch.zeros(0, dtype=torch.int64)))
    kv = with_length(whole.pool.sequence(16), 4)
    with pytest.raises(InvalidBatch, match="one sequence"):
        whole.forward(StageBatch([Row(kv, 4, 1), Row(kv, 4, 1)], ids(2)))
