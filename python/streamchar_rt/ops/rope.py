"""Rotary positions in three axes (time, y, x), as a table shared by every layer and step."""
from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError

TIME_AXIS = 0
_SHIFTS_KEPT = 256


def rope_frequencies(
    pairs: Sequence[int] = (12, 10, 10), base: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Frequencies and axes of the channel pairs, time pairs first, then y, then x.

    Args:
        pairs: number of channel pairs that turn with (time, y, x).
        base: the slowest pair of an axis with n pairs turns base**(-(n-1)/n) radians per unit.

    Returns:
        ``freqs`` (D/2,) float64 in radians per position unit, ``axes`` (D/2,) int64 in {0, 1, 2}.
    """
    freqs = [base ** (-i / n) for n in pairs for i in range(n)]
    axes = [axis for axis, n in enumerate(pairs) for _ in range(n)]
    return torch.tensor(freqs, dtype=torch.float64), torch.tensor(axes, dtype=torch.int64)


class Rope:
    """Rotation of T tokens at fixed local positions.

    Pairs are interleaved: channels (2i, 2i+1) turn by ``positions[:, axes[i]] * freqs[i]``. Angles are
    built in float64, because float32 angles are wrong by 2e-4 at position 10,000.

    Attributes:
        positions: (T, 3) float64, (time, y, x).
        freqs: (D/2,) float64.  axes: (D/2,) int64.
        table: (T, D/2, 2) float32, cosine and sine, contiguous.

    Raises:
        ConfigError: on shapes that do not fit together, or values that are not finite.
    """

    def __init__(self, positions: Tensor, freqs: Tensor, axes: Tensor) -> None:
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise ConfigError(
                f"positions must be (T, 3), got {tuple(positions.shape)}",
                hint="pass one (time, y, x) row per token",
            )
        if freqs.ndim != 1 or axes.shape != freqs.shape:
            raise ConfigError(
                f"freqs and axes must be (D/2,), got {tuple(freqs.shape)} and {tuple(axes.shape)}",
                hint="use rope_frequencies()",
            )
        if axes.numel() and not 0 <= int(axes.min()) <= int(axes.max()) <= 2:
            raise ConfigError("axes must hold 0 (time), 1 (y) or 2 (x)", hint="use rope_frequencies()")
        if not bool(torch.isfinite(positions).all() and torch.isfinite(freqs).all()):
            raise ConfigError("positions and freqs must be finite", hint="check the token grid")
        self.positions = positions.detach().double()
        self.freqs = freqs.detach().to(positions.device, torch.float64)
        self.axes = axes.detach().to(positions.device, torch.int64)
        self._time_freqs = [
            f if a == TIME_AXIS else 0.0 for f, a in zip(self.freqs.tolist(), self.axes.tolist())
        ]
        self._tables: dict[torch.dtype, Tensor] = {}
        self._shifts: dict[tuple[float, torch.dtype, torch.device], Tensor] = {}
        self._moved: dict[torch.device, Rope] = {}
        self.table = self.table_as(torch.float32)

    @property
    def tokens(self) -> int:
        return self.positions.shape[0]

    @property
    def head_dim(self) -> int:
        return 2 * self.freqs.shape[0]

    def table_as(self, dtype: torch.dtype) -> Tensor:
        """(T, D/2, 2) cosine and sine in ``dtype``."""
        if dtype not in self._tables:
            angles = self.positions[:, self.axes] * self.freqs
            self._tables[dtype] = torch.stack((angles.cos(), angles.sin()), -1).to(dtype).contiguous()
        return self._tables[dtype]

    def shift(
        self, distance: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Tensor:
        """(D/2, 2) cosine and sine that move a rotated vector ``distance`` later in time."""
        device = device or self.freqs.device
        key = (float(distance), dtype, device)
        if key not in self._shifts:
            if len(self._shifts) >= _SHIFTS_KEPT:
                self._shifts.clear()
            angles = [f * float(distance) for f in self._time_freqs]
            self._shifts[key] = torch.tensor(
                [(math.cos(a), math.sin(a)) for a in angles], dtype=torch.float64
            ).to(device, dtype)
        return self._shifts[key]

    def to(self, device: torch.device | str) -> Rope:
        """The same rotation with its tables on ``device``; made once per device."""
        device = torch.device(device)
        if device == self.table.device:
            return self
        if device not in self._moved:
            moved = copy.copy(self)
            moved.positions, moved.freqs, moved.axes = (x.to(device) for x in (self.positions, self.freqs, self.axes))
            moved._tables = {dtype: table.to(device) for dtype, table in self._tables.items()}
            moved._shifts, moved._moved, moved.table = {}, {}, moved._tables[torch.float32]
            self._moved[device] = moved
        return self._moved[device]
