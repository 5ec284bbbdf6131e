"""Muon: momentum made orthogonal, for matrices; Adam beside it for the rest. Knows parameters, no model.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). The update of a matrix is its momentum with all
singular values pushed to about 1 by five steps of a quintic Newton-Schulz iteration.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonal updates, decoupled weight decay; matrices only."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient. ``closure`` is not called."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(state["momentum"], group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor, num_steps: int = 5) -> Tensor:
    """``matrix`` with its singular values moved to between about 0.7 and 1.2, in bfloat16 as the paper has it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().T
    wide = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(num_steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    same: Tensor = (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)
    return same
