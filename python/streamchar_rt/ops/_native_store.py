"""Context cache over the native core."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..large_memory import empty
from ._native import CPU_STORAGE, float_rows, native, strided, weight_rows
from ._spec import CacheSpec, Read
from .norm import QkNorm
from .rope import Rope


@dataclass(frozen=True)
class NativeSnapshot:
    spec: CacheSpec
    handle: Any

    @property
    def nbytes(self) -> int:
        return self.handle.nbytes


class NativeStore:
    """See ``ContextCache`` for what each method means."""

    def __init__(self, spec: CacheSpec) -> None:
        segments = [
            (name, rows, spec.live_chunks(name), spec.retained_chunks(name) - spec.live_chunks(name), name == spec.ring)
            for name, rows in spec.capacity.items()
        ]
        context = native.CpuContext(spec.layers, spec.heads, spec.head_dim, CPU_STORAGE[spec.dtype], segments)
        self._attach(spec, context)

    def _attach(self, spec: CacheSpec, context: Any) -> None:
        self.spec = spec
        self._context = context
        self._index = {name: i for i, name in enumerate(spec.names)}

    # -- contents
    def append(self, layer: int, segment: str, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope) -> None:
        k, v, weight = float_rows("k", k), float_rows("v", v), weight_rows(norm.k_weight)
        self._context.append(
            layer, self._index[segment], k.shape[0], strided(k), strided(v),
            weight.data_ptr(), norm.bounds, norm.eps, rope.table.data_ptr(),
        )

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope,
        reads: Sequence[Read], store: str | None, out: Tensor | None,
    ) -> Tensor:
        dtype = q.dtype
        q, k, v = float_rows("q", q), float_rows("k", k), float_rows("v", v)
        direct = out is not None and out.dtype is torch.float32
        result = out if direct else torch.empty(q.shape, dtype=torch.float32)
        q_weight, k_weight = weight_rows(norm.q_weight), weight_rows(norm.k_weight)
        shifts = [rope.shift(r.distance) for r in reads]   # held until the call is over
        self._context.attend(
            layer, q.shape[0], strided(q), strided(k), strided(v), q_weight.data_ptr(), k_weight.data_ptr(),
            norm.bounds, norm.eps, rope.table.data_ptr(),
            [
                (self._index[r.segment], r.age, s.data_ptr() if r.distance else 0)
                for r, s in zip(reads, shifts, strict=True)
            ],
            None if store is None else self._index[store], result.data_ptr(),
        )
        if direct:
            return result
        return result.to(dtype) if out is None else out.copy_(result)

    def commit(self, segment: str, label: int | None) -> None:
        self._context.commit(self._index[segment], label)

    def drop(self, segment: str) -> None:
        self._context.drop(self._index[segment])

    def rewind(self, segment: str, label: int) -> None:
        self._context.rewind(self._index[segment], label)

    def clear(self, segment: str) -> None:
        self._context.clear(self._index[segment])

    # -- whole state
    def snapshot(self) -> NativeSnapshot:
        return NativeSnapshot(self.spec, self._context.snapshot())

    def restore(self, snapshot: NativeSnapshot) -> None:
        self._context.restore(snapshot.handle)

    def fork(self) -> NativeStore:
        child = object.__new__(NativeStore)
        child._attach(self.spec, self._context.fork())
        return child

    def export_chunk(self, segment: str, index: int) -> tuple[int, Tensor, Tensor]:
        i, spec = self._index[segment], self.spec
        rows = self._context.committed_rows(i, index)
        shape = spec.layers, rows, spec.heads, spec.head_dim
        key, value = empty(*shape, dtype=torch.float32), empty(*shape, dtype=torch.float32)
        for layer in range(spec.layers):
            self._context.read(i, index, layer, key[layer].data_ptr(), value[layer].data_ptr())
        label, kept = self._context.committed_label(i, index), spec.exported_dtype
        if kept is not torch.float32:
            key, value = (empty(*shape, dtype=kept).copy_(rows) for rows in (key, value))
        return label, key, value

    def import_chunk(self, segment: str, label: int, keys: Tensor, values: Tensor) -> None:
        for layer in range(self.spec.layers):
            k, v = float_rows("key", keys[layer]), float_rows("value", values[layer])
            self._context.append(layer, self._index[segment], k.shape[0], strided(k), strided(v), 0, (0,), 1.0, 0)
        self.commit(segment, label)

    # -- facts
    def rows(self, segment: str) -> int:
        return self._context.rows(self._index[segment])

    def live_count(self, segment: str) -> int:
        return self._context.live_count(self._index[segment])

    def chunks(self, segment: str) -> tuple[int, ...]:
        return tuple(self._context.labels(self._index[segment]))

    def kept(self, segment: str) -> int:
        return self._context.committed(self._index[segment])

    def staged(self, segment: str) -> bool:
        return self._context.staged(self._index[segment])

    def generation(self, segment: str) -> int:
        return self._context.generation(self._index[segment])

    def nbytes(self) -> int:
        return self._context.bytes_held

    def slot_bytes(self, segment: str) -> int:
        return self._context.slot_bytes(self._index[segment])
