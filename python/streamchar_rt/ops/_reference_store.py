"""Context cache in plain torch: the naive model that the native one must equal."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import StateError
from . import reference
from ._spec import CacheSpec, Read
from .norm import QkNorm
from .rope import Rope


@dataclass(frozen=True)
class _Chunk:
    label: int
    keys: tuple[Tensor, ...]      # per layer (T, H, D), ready; never written again
    values: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.keys, *self.values))


@dataclass
class _Segment:
    kept: list[_Chunk] = field(default_factory=list)        # oldest first
    staged: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    first: int | None = None                                # label of the first commit since clear
    lost: bool = False                                      # a committed chunk has been discarded
    generation: int = 0


@dataclass(frozen=True)
class ReferenceSnapshot:
    spec: CacheSpec
    segments: dict[str, tuple[tuple[_Chunk, ...], int | None, bool]]

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for kept, _, _ in self.segments.values() for c in kept)


class ReferenceStore:
    """See ``ContextCache`` for what each method means."""

    def __init__(self, spec: CacheSpec) -> None:
        self.spec = spec
        self._segments = {name: _Segment() for name in spec.names}

    # -- contents
    def append(self, layer: int, segment: str, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope) -> None:
        self._stage(layer, segment, self._ready(k, norm, rope), v)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope,
        reads: Sequence[Read], store: str | None, out: Tensor | None,
    ) -> Tensor:
        own = self._ready(k, norm, rope)
        if store is not None:
            self._stage(layer, store, own, v)
        chunks = [self._live(r.segment)[-1 - r.age] for r in reads]
        result = reference.segment_attention(
            q,
            [c.keys[layer].to(q.dtype) for c in chunks] + [own],
            [c.values[layer].to(q.dtype) for c in chunks] + [v],
            weight=norm.q_weight, bounds=norm.bounds, rope=rope,
            distances=[*(r.distance for r in reads), 0.0], eps=norm.eps,
        )
        return result if out is None else out.copy_(result)

    def commit(self, segment: str, label: int | None) -> None:
        s = self._segments[segment]
        if len(s.staged) != self.spec.layers:
            raise StateError(
                f"{segment!r} has {len(s.staged)} of {self.spec.layers} layers staged",
                hint="append every layer before commit()",
            )
        if len({k.shape[0] for k, _ in s.staged.values()}) != 1:
            raise StateError(f"the layers staged for {segment!r} differ in tokens", hint="append equal T everywhere")
        last = s.kept[-1].label if s.kept else -1
        label = last + 1 if label is None else label
        if label <= last:
            raise StateError(f"chunk {label} is not after chunk {last}", hint="labels must rise; rewind() first")
        layers = [s.staged[i] for i in range(self.spec.layers)]
        s.kept.append(_Chunk(label, tuple(k for k, _ in layers), tuple(v for _, v in layers)))
        s.staged = {}
        s.first = label if s.first is None else s.first
        while len(s.kept) > self.spec.retained_chunks(segment):
            s.kept.pop(0)
            s.lost = True
        s.generation += 1

    def drop(self, segment: str) -> None:
        self._segments[segment].staged = {}

    def rewind(self, segment: str, label: int) -> None:
        s = self._segments[segment]
        keep = [c for c in s.kept if c.label <= label]
        reaches_back = s.first is None or label < s.first
        if s.lost and not reaches_back and len(keep) < self.spec.live_chunks(segment):
            raise StateError(f"chunk {label} is no longer held", hint="make the cache with more history=")
        s.staged = {}
        if reaches_back:
            s.first, s.lost = None, False
        s.generation += len(keep) != len(s.kept)
        s.kept = keep

    def clear(self, segment: str) -> None:
        old = self._segments[segment]
        self._segments[segment] = _Segment(generation=old.generation + bool(old.kept))

    # -- whole state
    def snapshot(self) -> ReferenceSnapshot:
        return ReferenceSnapshot(
            self.spec, {n: (tuple(s.kept), s.first, s.lost) for n, s in self._segments.items()}
        )

    def restore(self, snapshot: ReferenceSnapshot) -> None:
        for name, (kept, first, lost) in snapshot.segments.items():
            old = self._segments[name]
            same = [id(c) for c in old.kept] == [id(c) for c in kept]
            self._segments[name] = _Segment(list(kept), {}, first, lost, old.generation + (not same))

    def fork(self) -> ReferenceStore:
        child = ReferenceStore(self.spec)
        child.restore(self.snapshot())
        return child

    def export_chunk(self, segment: str, index: int) -> tuple[int, Tensor, Tensor]:
        chunk = self._segments[segment].kept[index]
        return chunk.label, torch.stack(chunk.keys), torch.stack(chunk.values)

    def import_chunk(self, segment: str, label: int, keys: Tensor, values: Tensor) -> None:
        for layer in range(self.spec.layers):
            self._stage(layer, segment, keys[layer], values[layer])
        self.commit(segment, label)

    # -- facts
    def rows(self, segment: str) -> int:
        return sum(c.keys[0].shape[0] for c in self._live(segment))

    def live_count(self, segment: str) -> int:
        return len(self._live(segment))

    def chunks(self, segment: str) -> tuple[int, ...]:
        return tuple(c.label for c in self._live(segment))

    def kept(self, segment: str) -> int:
        return len(self._segments[segment].kept)

    def staged(self, segment: str) -> bool:
        return bool(self._segments[segment].staged)

    def generation(self, segment: str) -> int:
        return self._segments[segment].generation

    def nbytes(self) -> int:
        chunks = [c for s in self._segments.values() for c in s.kept]
        staged = [t for s in self._segments.values() for pair in s.staged.values() for t in pair]
        return sum(c.nbytes for c in chunks) + sum(t.nbytes for t in staged)

    def slot_bytes(self, segment: str) -> int:
        spec = self.spec
        row = spec.heads * spec.head_dim * torch.empty((), dtype=spec.dtype).element_size()
        return 2 * spec.layers * spec.capacity[segment] * row

    # -- helpers
    def _live(self, segment: str) -> list[_Chunk]:
        return self._segments[segment].kept[-self.spec.live_chunks(segment):]

    def _ready(self, k: Tensor, norm: QkNorm, rope: Rope) -> Tensor:
        return reference.normalize_rotate(k, norm.k_weight, norm.bounds, rope, norm.eps)

    def _stage(self, layer: int, segment: str, k: Tensor, v: Tensor) -> None:
        if self.spec.dtype is torch.int8:
            k, v = reference.int8_keys(k), reference.int8_values(v)
        target = dict(device=self.spec.device, dtype=self.spec.exported_dtype, copy=True)
        self._segments[segment].staged[layer] = (k.detach().to(**target), v.detach().to(**target))
