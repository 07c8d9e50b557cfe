"""Stages of a chunk as CUDA graphs: captured when first run, replayed from then on. Plain calls elsewhere.

A graph reads and writes fixed memory. So inputs are copied into the graph's own, and what ``run`` returns is the
graph's own: it holds until the same stage runs again. Both lie outside the memory pool that the graphs of one
``Graphs`` share for what they need on the way: a replay may overwrite all of the pool, and a stage's results must
outlive the replay of one that was captured earlier.

On a GPU, an H200, they give the bytes of plain calls.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], Any]
    inputs: tuple[Tensor, ...]
    outputs: Any


class Graphs:
    """Graphs by key, on one device. Not for several threads at once.

    Args:
        enabled: capture where the device is a GPU.
        tune: let cuDNN choose the convolutions of captured stages by trial, not by its rules.
    """

    def __init__(self, device: torch.device, enabled: bool = True, *, tune: bool = False) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._tune = tune
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """``function(*inputs)``: a function of tensors on the device, of the same shapes for the same key, that
        neither asks for values nor draws random numbers, and returns a tuple of tensors."""
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
        """What replays the function, its inputs and its outputs. It runs twice before it is captured: what libraries
        and caches set up on first use cannot be."""
        if self._stream is None:
            # One for all: libraries keep a workspace for every stream, and a pool its memory.
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self._stream.wait_stream(torch.cuda.current_stream())
        with _convolutions_by_trial(self._tune):
            with torch.cuda.stream(self._stream):
                shapes = [(x.shape, x.dtype) for x in function(*own)]
            outputs = tuple(torch.empty(shape, dtype=dtype, device=own[0].device) for shape, dtype in shapes)
            with torch.cuda.stream(self._stream):      # once more, with the copies: a new kernel cannot be captured
                _copy(function(*own), outputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                _copy(function(*own), outputs)
        return graph.replay, own, outputs


def _copy(made: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    for output, result in zip(outputs, made, strict=True):
        output.copy_(result)


@contextmanager
def _convolutions_by_trial(wanted: bool) -> Iterator[None]:
    """What was chosen while warming up is what is captured."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
