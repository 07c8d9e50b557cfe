"""What a context cache holds: its shape, and the reads of one attention call."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..errors import ConfigError


@dataclass(frozen=True)
class CacheSpec:
    """Shape of a context cache; ``capacity`` is tokens per segment (for the ring: per chunk)."""

    layers: int
    heads: int
    head_dim: int
    capacity: dict[str, int]
    ring: str | None
    chunks: int
    history: int
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "chunks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1", hint=f"got {getattr(self, name)}")
        if self.history < 0:
            raise ConfigError(f"history must not be negative, got {self.history}", hint="0 keeps none")
        if not self.capacity or any(rows < 1 for rows in self.capacity.values()):
            raise ConfigError("capacity needs a positive number of tokens per segment", hint="e.g. {'sink': 272}")
        if self.ring is not None and self.ring not in self.capacity:
            raise ConfigError(f"ring {self.ring!r} is not a segment", hint=f"one of {list(self.capacity)}, or None")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.capacity)

    @property
    def exported_dtype(self) -> torch.dtype:
        """What keys and values leave the cache as: int8 ones with their steps, which makes float32 of them."""
        return torch.float32 if self.dtype is torch.int8 else self.dtype

    def live_chunks(self, segment: str) -> int:
        """How many chunks of the segment attention can see at most."""
        return self.chunks if segment == self.ring else 1

    def retained_chunks(self, segment: str) -> int:
        """How many committed chunks of the segment are kept at most."""
        return self.chunks + self.history if segment == self.ring else 1

    def check_segment(self, segment: str) -> None:
        if segment not in self.capacity:
            raise ConfigError(f"no segment {segment!r}", hint=f"one of {list(self.capacity)}")

    def check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.layers:
            raise ConfigError(f"layer {layer} is outside 0..{self.layers - 1}", hint="see ContextCache(layers=)")


class Read(NamedTuple):
    """One live chunk that attention reads: ``age`` 0 is the segment's newest."""

    segment: str
    age: int
    distance: float


def plan_reads(
    spec: CacheSpec,
    live: Mapping[str, int],
    distances: Mapping[str, float | Sequence[float]],
    segments: Sequence[str] | None,
) -> list[Read]:
    """The live chunks to read, in the cache's segment order, oldest chunk first.

    Args:
        live: number of live chunks per segment.
        distances: per segment the newest chunk's time distance (an older one is as much farther again for
            each chunk of age), or one distance per chunk, newest first.
        segments: names to read; None reads all.

    Raises:
        ConfigError: for an unknown segment, or one that is read without a distance.
    """
    for name in (*(segments or ()), *distances):
        spec.check_segment(name)
    reads: list[Read] = []
    for name in spec.names if segments is None else [n for n in spec.names if n in segments]:
        count = live[name]
        if not count:
            continue
        if name not in distances:
            raise ConfigError(f"segment {name!r} has no distance", hint="add it to distances=")
        given = distances[name]
        per_age = [given * (age + 1) for age in range(count)] if isinstance(given, (int, float)) else list(given)
        if len(per_age) < count:
            raise ConfigError(
                f"segment {name!r} has {count} live chunks but {len(per_age)} distances", hint="newest first"
            )
        reads += [Read(name, age, float(per_age[age])) for age in reversed(range(count))]
    return reads
