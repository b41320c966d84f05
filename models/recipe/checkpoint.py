"""Training state on disk: one safetensors file, tensors and progress, written atomically."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipe.batches import Cursor
from recipe.train import Phase, Progress, Trainer


class CheckpointMismatch(Exception):
    """The file belongs to a run with another preset or seed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was written by a run with other settings: delete it to start anew, or pass "
            "the options it was started with to resume"
        )


def save_checkpoint(path: Path, trainer: Trainer, run_key: str) -> None:
    """Replace `path` by the trainer's state; a crash leaves the old file or the new one."""
    metadata = {"run_key": run_key, "progress": json.dumps(asdict(trainer.progress))}
    partial = path.with_name(path.name + ".tmp")
    save_file(_tensors(trainer), partial, metadata)
    partial.replace(path)


def load_checkpoint(path: Path, trainer: Trainer, run_key: str) -> None:
    """Continue where the file left off. Raises CheckpointMismatch, with `trainer` untouched."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["run_key"] != run_key:
            raise CheckpointMismatch(path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _restore(trainer, tensors)
    fields = json.loads(metadata["progress"])
    fields["phase"] = Phase(fields["phase"])
    fields["cursor"] = Cursor(**fields["cursor"])
    trainer.progress = Progress(**fields)


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters as `model/<name>`, optimizer state as `state/<key>/<name>`."""
    tensors = {}
    for name, parameter, state in _entries(trainer):
        tensors[f"model/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in state.items():
            tensors[f"state/{key}/{name}"] = value.detach().cpu().contiguous()
    return tensors


@torch.no_grad()
def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    for name, parameter, state in _entries(trainer):
        parameter.copy_(tensors[f"model/{name}"])
        for full_name, value in tensors.items():
            kind, _, rest = full_name.partition("/")
            key, _, owner = rest.partition("/")
            if kind == "state" and owner == name:
                # AdamW keeps its step count on the CPU; the moments live with the parameter.
                state[key] = value if value.dim() == 0 else value.to(parameter.device)


def _entries(trainer: Trainer) -> list[tuple[str, Tensor, dict[str, Any]]]:
    entries = []
    for name, parameter in trainer.model.named_parameters():
        owner = trainer.muon if _holds(trainer.muon, parameter) else trainer.adam
        entries.append((name, parameter, owner.state[parameter]))
    return entries


def _holds(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(parameter is p for group in optimizer.param_groups for p in group["params"])
