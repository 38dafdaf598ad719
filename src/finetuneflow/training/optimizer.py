"""AdamW with single-precision master weights: the model computes in bf16 and still learns in small steps."""

from __future__ import annotations

import math
from typing import Literal

import torch


class MasterAdamW:
    """AdamW over fp32 copies of the trainable parameters, written back to the model after each step."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], *, weight_decay: float) -> None:
        self.parameters = parameters
        self.masters = {
            name: parameter.detach().float().clone().requires_grad_()
            for name, parameter in parameters.items()
        }
        decayed = [master for master in self.masters.values() if master.ndim >= 2]
        others = [master for master in self.masters.values() if master.ndim < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)

    def step(self, *, learning_rate: float, divisor: float, max_grad_norm: float) -> float:
        """One update; gives the gradient's norm before clipping.

        Args:
            learning_rate: Of this step.
            divisor: What the summed gradients are divided by (supervised tokens, or rows).
            max_grad_norm: Gradients are scaled down to this norm.
        """
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            self.masters[name].grad = None if gradient is None else gradient.float() / divisor
            parameter.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.masters.values()), max_grad_norm))
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        self.write_back()
        return norm

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies the masters into the model, rounded to its number format."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.masters[name])

    def masters_state(self) -> dict[str, torch.Tensor]:
        """The weights alone."""
        return {f"master.{name}": master.detach() for name, master in self.masters.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that decides the next update, as flat tensors."""
        tensors = self.masters_state()
        for name, master in self.masters.items():
            for key, value in self.adam.state.get(master, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up where `state` was written."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            saved = {
                key: tensors[f"adam.{key}.{name}"].to(master.device if key != "step" else "cpu").clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in tensors
            }
            if saved:
                self.adam.state[master] = saved
        self.write_back()


def learning_rate_at(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak: float,
    schedule: Literal["linear", "cosine", "constant"],
) -> float:
    """Learning rate of the given step (0-based): a linear rise, then the schedule down to zero."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
