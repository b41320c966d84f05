"""Batches, optimizer, training and its resumption on a model of a few thousand weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe.batches import BatchSource, Cursor
from recipe.checkpoint import CheckpointMismatch, load_checkpoint, save_checkpoint
from recipe.corpus import DRAFT_MIX
from recipe.model import build_model
from recipe.optimizer import orthogonalize
from recipe.presets import Preset
from recipe.tables import Tables
from recipe.tokenizer import ChatEncoder
from recipe.train import FLOOR, Phase, Trainer, learning_scale
from tokenizers import Tokenizer


@pytest.fixture
def source(tables: Tables, tokenizer: Tokenizer, tiny: Preset) -> BatchSource:
    return BatchSource(5, tables, ChatEncoder(tokenizer, tables.tools), tiny.batch_tokens)


def trainer(preset: Preset, source: BatchSource) -> Trainer:
    return Trainer(preset, build_model(preset.shape, 5), source, "cpu")


def train(subject: Trainer, steps_max: int | None) -> None:
    subject.run(lambda _: None, lambda _: None, steps_max)


def weights(subject: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in subject.model.parameters()])


def test_batches_keep_to_their_size_and_mask_padding(source: BatchSource) -> None:
    stream = source.stream(DRAFT_MIX, "full", Cursor())
    for batch in (next(stream) for _ in range(60)):
        rows, width = batch.token_ids.shape
        assert rows == 1 or rows * width <= source.batch_tokens
        assert batch.is_target.any(dim=1).all()
        # Every target ends with the end of a turn, so what lies behind the last is padding.
        last = width - 1 - batch.is_target.flip(1).int().argmax(dim=1)
        assert (batch.token_ids[torch.arange(rows), last] == 2).all()


def test_stream_continues_from_any_cursor(source: BatchSource) -> None:
    stream = source.stream(DRAFT_MIX, "full", Cursor())
    batches = [next(stream) for _ in range(200)]
    assert batches[-1].after.pool_index > 0
    for index in (0, 57, 150):
        resumed = next(source.stream(DRAFT_MIX, "full", batches[index].after))
        assert torch.equal(resumed.token_ids, batches[index + 1].token_ids)


@pytest.mark.parametrize("shape", [(2, 24, 48), (2, 48, 24), (1, 32, 32)])
def test_orthogonalized_updates_have_singular_values_near_one(
    shape: tuple[int, int, int],
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrices, iterations=5))
    assert values.max() < 1.2
    assert values.median() > 0.8


def test_learning_rate_warms_up_stays_and_falls_to_the_floor() -> None:
    assert learning_scale(0, 0.0, 0.4) == pytest.approx(1 / 30)
    assert learning_scale(100, 0.5, 0.4) == 1.0
    assert learning_scale(100, 0.8, 0.4) == pytest.approx(FLOOR + (1 - FLOOR) * 0.5)
    assert learning_scale(100, 1.0, 0.4) == pytest.approx(FLOOR)


def test_twenty_steps_lower_the_loss(tiny: Preset, source: BatchSource) -> None:
    subject = trainer(replace(tiny, echo_budget=10**6), source)
    stream = source.stream(DRAFT_MIX, "full", Cursor())
    losses = [subject.step(next(stream)) for _ in range(20)]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.2


def test_run_goes_through_both_phases_and_ends(tiny: Preset, source: BatchSource) -> None:
    subject = trainer(tiny, source)
    train(subject, None)
    assert subject.progress.phase is Phase.DONE
    assert subject.progress.token_count >= tiny.echo_budget + tiny.token_budget


def test_echo_phase_ends_once_the_loss_is_low(tiny: Preset, source: BatchSource) -> None:
    subject = trainer(replace(tiny, echo_loss_target=100.0), source)
    train(subject, 1)
    assert subject.progress.phase is Phase.FULL


def test_same_seed_trains_the_same_weights(tiny: Preset, source: BatchSource) -> None:
    first, second = trainer(tiny, source), trainer(tiny, source)
    for subject in (first, second):
        train(subject, 8)
    assert torch.equal(weights(first), weights(second))


def test_resumed_run_equals_an_uninterrupted_one(
    tiny: Preset, source: BatchSource, tmp_path: Path
) -> None:
    whole, stopped, resumed = (trainer(tiny, source) for _ in range(3))
    train(whole, 20)
    train(stopped, 11)
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, stopped, "key")
    load_checkpoint(path, resumed, "key")
    assert resumed.progress == stopped.progress
    train(resumed, 9)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.progress == whole.progress


def test_state_of_another_run_is_refused(tiny: Preset, source: BatchSource, tmp_path: Path) -> None:
    subject = trainer(tiny, source)
    train(subject, 1)
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, subject, "seed 1")
    before = weights(subject)
    with pytest.raises(CheckpointMismatch, match="delete it"):
        load_checkpoint(path, subject, "seed 2")
    assert torch.equal(weights(subject), before)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
