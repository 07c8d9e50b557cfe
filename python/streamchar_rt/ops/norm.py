"""RMSNorm of queries and keys per head, with one weight per token group (video, audio)."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from ..errors import ConfigError


def check_groups(weight: Tensor, bounds: Sequence[int]) -> None:
    """Raises ConfigError unless ``weight`` is (G, D) and ``bounds`` are G + 1 rising token indices from 0."""
    if weight.ndim != 2:
        raise ConfigError(
            f"norm weight must be (groups, head_dim), got {tuple(weight.shape)}",
            hint="stack one (head_dim,) weight per token group",
        )
    rising = all(a <= b for a, b in pairwise(bounds))
    if len(bounds) != weight.shape[0] + 1 or bounds[0] != 0 or not rising:
        raise ConfigError(
            f"bounds {tuple(bounds)} do not split tokens into {weight.shape[0]} groups",
            hint="give groups + 1 rising token indices that start at 0",
        )


class QkNorm:
    """Weights of the per-head RMSNorm that queries and keys get before rotation.

    Args:
        q_weight, k_weight: (G, D), one row per token group.
        bounds: G + 1 token indices; group g is tokens ``bounds[g]:bounds[g + 1]``.
        eps: added to the mean square.

    Raises:
        ConfigError: if the shapes and bounds do not fit together.
    """

    def __init__(
        self, q_weight: Tensor, k_weight: Tensor, bounds: Sequence[int], eps: float = 1e-6
    ) -> None:
        self.bounds = tuple(int(b) for b in bounds)
        check_groups(q_weight, self.bounds)
        check_groups(k_weight, self.bounds)
        if q_weight.shape != k_weight.shape:
            raise ConfigError(
                f"q_weight {tuple(q_weight.shape)} and k_weight {tuple(k_weight.shape)} differ in shape",
                hint="both are (groups, head_dim)",
            )
        if not eps > 0:
            raise ConfigError(f"eps must be positive, got {eps}", hint="1e-6 is usual")
        self.q_weight = q_weight
        self.k_weight = k_weight
        self.eps = float(eps)

    @property
    def tokens(self) -> int:
        return self.bounds[-1]

    @property
    def head_dim(self) -> int:
        return self.q_weight.shape[1]
