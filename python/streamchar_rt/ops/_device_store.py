"""Context cache in GPU memory: the naive store's bookkeeping, native kernels on its rows.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ._native import cuda_attention, cuda_kv_append
from ._reference_store import ReferenceStore
from ._spec import Read
from .norm import QkNorm
from .rope import Rope


class DeviceStore(ReferenceStore):
    """bfloat16 keys and values as rows of device tensors, which attention reads in place."""

    def append(self, layer: int, segment: str, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope) -> None:
        self._hold(layer, segment, *cuda_kv_append(*self._rows(k, v), norm, rope.to(self.spec.device)))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, norm: QkNorm, rope: Rope,
        reads: Sequence[Read], store: str | None, out: Tensor | None,
    ) -> Tensor:
        rope = rope.to(self.spec.device)
        (query,) = self._rows(q)
        key, value = cuda_kv_append(*self._rows(k, v), norm, rope)
        if store is not None:
            self._hold(layer, store, key, value)
        chunks = [self._live(r.segment)[-1 - r.age] for r in reads]
        result, _ = cuda_attention(
            query, [c.keys[layer] for c in chunks] + [key], [c.values[layer] for c in chunks] + [value],
            norm.q_weight, norm.bounds, rope, [*(r.distance for r in reads), 0.0], norm.eps,
        )
        return result.to(q.dtype) if out is None else out.copy_(result)

    def fork(self) -> DeviceStore:
        child = DeviceStore(self.spec)
        child.restore(self.snapshot())
        return child

    def _hold(self, layer: int, segment: str, key: Tensor, value: Tensor) -> None:
        self._segments[segment].staged[layer] = (key, value)

    def _rows(self, *tensors: Tensor) -> list[Tensor]:
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            raise ConfigError("native kernels give no gradient", hint='use inference_mode() or kernels="reference"')
        return [x.detach().to(torch.bfloat16) for x in tensors]
