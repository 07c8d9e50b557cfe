"""Stages of a chunk as CUDA graphs: captured when first run, replayed from then on. Plain calls elsewhere.

A graph reads and writes fixed memory. So inputs are copied into the graph's own, and what ``run`` returns is the
graph's own: it holds until the same stage runs again. The graphs of one ``Graphs`` share a memory pool, since they
are replayed one after the other on one stream.

Captured graphs have not been verified on a GPU.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 2       # what libraries and caches set up on first use cannot be captured


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], Any]
    inputs: tuple[Tensor, ...]
    outputs: Any


class Graphs:
    """Graphs by key, on one device. Not for several threads at once.

    Args:
        enabled: capture where the device is a GPU.
    """

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """``function(*inputs)``: a function of tensors on the device, of the same shapes for the same key, that
        neither asks for values nor draws random numbers."""
        if not self.enabled:
            return function(*inputs)
        if key not in self._captured:
            self._captured[key] = self._capture(function, inputs)
        captured = self._captured[key]
        for own, given in zip(captured.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        captured.replay()
        return captured.outputs

    def _capture(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> _Captured:
        own = tuple(x.clone(memory_format=torch.preserve_format) for x in inputs)
        return _Captured(*self._record(function, own))

    def _record(
        self, function: Callable[..., Any], own: tuple[Tensor, ...]
    ) -> tuple[Callable[[], Any], tuple[Tensor, ...], Any]:
        """What replays the function, its inputs and its outputs."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                function(*own)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(*own)
        return graph.replay, own, outputs
