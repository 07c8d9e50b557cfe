"""How the denoiser's velocities are followed from noise to a chunk, in a few steps of equal length.

Euler's method with few steps draws all that nothing tells, how a head is held or how loud a breath is, too near its
mean: of a unit normal distribution's standard deviation, four steps leave 0.72. The two-step method of Adams and
Bashforth takes the velocity to go on changing as it has just changed, asks the denoiser no more often, and leaves 0.94.
What a chunk is told, a mouth's shape or a phone, is the same both ways.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

ADAMS_BASHFORTH = 0.5


@dataclass(frozen=True)
class Sampler:
    """How much of a velocity's last change is added to it, from the second step on: 0 is Euler's method, as students of
    distillation want it, 0.5 that of Adams and Bashforth; by what is drawn."""
    picture: float = 0.0
    sound: float = 0.0

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}={share}, but a sampler adds 0 to 1 of the velocity's last change")

    def to_dict(self) -> dict:
        return asdict(self)

    def table(self, steps: int) -> np.ndarray:
        """float32 (steps, 4): a row for each step's flow time, its length, and what ``followed`` adds to picture and
        sound."""
        rows = [(i / steps, 1 / steps, self.picture if i else 0.0, self.sound if i else 0.0) for i in range(steps)]
        return np.array(rows, np.float32)


def followed(x: torch.Tensor, velocity: torch.Tensor, before: torch.Tensor | None, share: float | torch.Tensor,
             length: float | torch.Tensor) -> torch.Tensor:
    """``x`` after a step of ``length``, any shape; ``before``: the last step's velocity, None in the first step;
    ``share``: of the change from it that is added, one of ``Sampler``'s."""
    if before is None or (isinstance(share, float) and not share):
        return x + velocity * length
    return x + (velocity + (velocity - before) * share) * length
