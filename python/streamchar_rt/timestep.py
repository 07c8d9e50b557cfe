"""The flow time as features: shared by the condition head and the denoiser."""
from __future__ import annotations

import math

import torch


def timestep_features(t: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of the flow time, (B,) in [0, 1] to (B, width)."""
    rates = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * 1000.0 * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
