"""A denoiser that is only asked, recorded as CUDA graphs: at batches of a few dozen the host would be what takes time."""
from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import torch

WARM = 2             # calls before one is recorded: compilers and allocators settle


class Recorded:
    """``function`` of tensors, some of them None, to a tuple of tensors; without gradient. One graph for each set of shapes.

    What the function reads beside its arguments, as a network's weights, may change in place.
    """

    def __init__(self, function: Callable[..., Sequence[torch.Tensor]]):
        self.function = function
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[torch.Tensor | None], tuple[torch.Tensor, ...]]] = {}
        self.stream = self.pool = None
        self.plain = False

    @torch.no_grad()
    def __call__(self, *arguments: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        kind = tuple(None if x is None else (x.shape, x.dtype) for x in arguments)
        if self.plain:
            return self.function(*arguments)
        if kind not in self.graphs:
            try:
                self.graphs[kind] = self._record(arguments)
            except RuntimeError:                             # slower, but a result
                traceback.print_exc()
                print("networks cannot be recorded here; going on without", flush=True)
                self.plain = True
                return self.function(*arguments)
        graph, inputs, results = self.graphs[kind]
        for there, x in zip(inputs, arguments):
            if x is not None:
                there.copy_(x)
        graph.replay()
        return tuple(x.clone() for x in results)             # the next call writes over them

    def _record(self, arguments: Sequence[torch.Tensor | None]):
        now = torch.cuda.current_stream()
        self.stream = self.stream or torch.cuda.Stream()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        inputs = [None if x is None else x.clone() for x in arguments]
        self.stream.wait_stream(now)
        graph = torch.cuda.CUDAGraph()
        # Autocast's copies of the weights must be made in the graph, not kept from before it.
        precision = torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"),
                                   cache_enabled=False)
        with precision:
            with torch.cuda.stream(self.stream):
                for _ in range(WARM):
                    self.function(*inputs)
            with torch.cuda.graph(graph, self.pool, self.stream):
                results = tuple(self.function(*inputs))
        now.wait_stream(self.stream)
        return graph, inputs, results
