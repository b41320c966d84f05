"""Trains one model: short echoes until it can copy, then the full mix.

Copying from the prompt is the bottleneck of such small models: with long echoes from the start
they stay on a plateau, with short ones alone they learn it within minutes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch

from recipe.batches import Batch, BatchSource, Cursor
from recipe.corpus import ECHO_MIX
from recipe.model import is_matrix, target_loss
from recipe.optimizer import Muon
from recipe.presets import Preset

WARM_UP_STEPS = 30
FLOOR = 0.03
"""Learning rates end at this share of their plateau."""
LOSS_DECAY = 0.95
REPORT_EVERY_STEPS = 50
CHECKPOINT_EVERY_S = 120.0


class Phase(StrEnum):
    """What the model is fed."""

    ECHO = "echo"
    FULL = "full"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; with the tensors, all that a checkpoint holds.

    `phase_steps`, `phase_tokens` and `cursor` count within the phase, `token_count` (padding
    included) over the run. `loss` is a running mean in nats, None before the first step.
    """

    phase: Phase = Phase.ECHO
    phase_steps: int = 0
    phase_tokens: int = 0
    token_count: int = 0
    loss: float | None = None
    cursor: Cursor = field(default_factory=Cursor)

    def next_phase(self, phase: Phase) -> "Progress":
        """The start of another phase."""
        return Progress(phase=phase, token_count=self.token_count, loss=self.loss)


def learning_scale(step: int, share_done: float, decay_share: float) -> float:
    """Warm-up, plateau, linear decay: factor on the learning rates, in [0, 1].

    step counts from zero within the phase, share_done is the used part of its budget.
    """
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    decay = min(1.0, max(0.0, 1.0 - share_done) / decay_share)
    return warm_up * (FLOOR + (1.0 - FLOOR) * decay)


class Trainer:
    """One run: the model, its optimizers and the place in the batch stream.

    The same preset, seed, device and thread count give the same weights, also across a stop and a
    resume: nothing but `progress` and the tensors carries over from step to step.
    """

    def __init__(self, preset: Preset, model: Any, source: BatchSource, device: str) -> None:
        self.preset = preset
        self.model = model.to(device)
        self.progress = Progress()
        self._source = source
        self._device = device
        named = dict(self.model.named_parameters())
        matrices = [p for name, p in named.items() if is_matrix(name, p)]
        others = [p for name, p in named.items() if not is_matrix(name, p)]
        self.muon = Muon(matrices, lr=preset.matrix_lr)
        self.adam = torch.optim.AdamW(
            others, lr=preset.other_lr, betas=(0.9, 0.98), weight_decay=0.0
        )

    def run(
        self,
        report: Callable[[Progress], None],
        checkpoint: Callable[["Trainer"], None],
        steps_max: int | None = None,
    ) -> None:
        """Train until the budget is used or `steps_max` steps are done.

        Calls `report` every REPORT_EVERY_STEPS steps and at the end, `checkpoint` after about
        every CHECKPOINT_EVERY_S seconds and at the end.
        """
        saved_at = time.monotonic()
        batches = self._batches()
        steps_left = steps_max
        while self.progress.phase is not Phase.DONE and steps_left != 0:
            self.step(next(batches))
            steps_left = None if steps_left is None else steps_left - 1
            if self.progress.phase_steps % REPORT_EVERY_STEPS == 0:
                report(self.progress)
            if self._phase_is_over():
                self._advance()
                batches = self._batches()
            if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                checkpoint(self)
                saved_at = time.monotonic()
        report(self.progress)
        checkpoint(self)

    def step(self, batch: Batch) -> float:
        """One update; returns the batch's loss in nats."""
        self._set_learning_rates()
        loss = target_loss(
            self.model, batch.token_ids.to(self._device), batch.is_target.to(self._device)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        self._count(batch, value)
        return value

    def _set_learning_rates(self) -> None:
        preset, progress = self.preset, self.progress
        if progress.phase is Phase.ECHO:
            scale = learning_scale(progress.phase_steps, 0.0, 1.0)
            matrix_lr = preset.echo_matrix_lr
        else:
            share_done = progress.phase_tokens / preset.token_budget
            scale = learning_scale(progress.phase_steps, share_done, preset.decay_share)
            matrix_lr = preset.matrix_lr
        for group in self.muon.param_groups:
            group["lr"] = matrix_lr * scale
        for group in self.adam.param_groups:
            group["lr"] = preset.other_lr * scale

    def _count(self, batch: Batch, loss: float) -> None:
        progress, tokens = self.progress, batch.token_ids.numel()
        mean = loss if progress.loss is None else progress.loss
        self.progress = replace(
            progress,
            phase_steps=progress.phase_steps + 1,
            phase_tokens=progress.phase_tokens + tokens,
            token_count=progress.token_count + tokens,
            loss=LOSS_DECAY * mean + (1 - LOSS_DECAY) * loss,
            cursor=batch.after,
        )

    def _phase_is_over(self) -> bool:
        progress, preset = self.progress, self.preset
        if progress.phase is Phase.FULL:
            return progress.phase_tokens >= preset.token_budget
        assert progress.loss is not None
        can_copy = progress.loss < preset.echo_loss_target
        return can_copy or progress.phase_tokens >= preset.echo_budget

    def _advance(self) -> None:
        following = Phase.FULL if self.progress.phase is Phase.ECHO else Phase.DONE
        self.progress = self.progress.next_phase(following)

    def _batches(self) -> Iterator[Batch]:
        mix = ECHO_MIX if self.progress.phase is Phase.ECHO else self.preset.mix
        return self._source.stream(mix, self.progress.phase.value, self.progress.cursor)
