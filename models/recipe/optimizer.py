"""Muon: momentum whose update is made orthogonal, for the matrices of the decoder.

Newton-Schulz iterations with the coefficients of Polar Express (Amsel et al., arXiv 2505.16932)
push all singular values of the update towards one; three iterations are enough at this size.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

POLAR_COEFFICIENTS = (
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9478, 0.5448),
    (3.9487, -2.9089, 0.5518),
    (3.3184, -2.4885, 0.5100),
    (2.3007, -1.6689, 0.4188),
)
NORM_MARGIN = 1.01
"""The first iteration needs a spectral norm safely under one."""


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly. matrices: (N, rows, columns), left unchanged."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if is_tall else matrices
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    x = x / (norm * NORM_MARGIN + 1e-7)
    for a, b, c in POLAR_COEFFICIENTS[:iterations]:
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.transpose(1, 2) if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonal updates; parameters must be matrices.

    Matrices of one shape are updated as one batch. The step grows with the root of
    rows / columns, so that one learning rate fits all shapes.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float, momentum: float = 0.95, iterations: int = 3
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_shape(parameters, group)

    def _step_shape(self, parameters: list[Parameter], group: dict[str, Any]) -> None:
        updates = [self._momentum_update(p, group["momentum"]) for p in parameters]
        rows, columns = parameters[0].shape
        scale: float = group["lr"] * max(1.0, rows / columns) ** 0.5
        directions = orthogonalize(torch.stack(updates), group["iterations"])
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=-scale)

    def _momentum_update(self, parameter: Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)
