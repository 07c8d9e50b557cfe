"""Updates of the weights on a GPU that the host does not wait for, whole ones as CUDA graphs where the work allows it.

What the host would look at (is the gradient finite? what is the loss?) stays on the device: a bad gradient makes the
optimizer skip, as under a gradient scaler, and losses are summed up there until a report reads them.
"""
from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .on_device import upload

AHEAD = 4            # updates that may be under way at once: the clock must not run ahead of the work
WARM = 2             # runs of each kind of update before it is recorded: compilers and allocators settle

Losses = dict[str, torch.Tensor]


@dataclass
class GraphStep:
    """A training step in two halves: what the host chooses, and what the device does with it, without a look at values.

    The shapes of all that ``losses`` does follow from the ``kind``; the arrays' values may differ.
    """
    choose: Callable[[int], tuple[Hashable, Sequence[np.ndarray]]]        # of an iteration: kind and arrays
    losses: Callable[[Hashable, Sequence], Losses]
    examples: Callable[[], Iterable[tuple[Hashable, Sequence[np.ndarray]]]]   # one of each kind

    def __call__(self, iteration: int) -> Losses:
        return self.losses(*self.choose(iteration))


class DeviceUpdates:
    """Does what ``Loop`` does on a CPU, for a loop whose model is on a device."""

    def __init__(self, loop):
        self.loop, self.device = loop, loop.device
        cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if cuda else None
        self.rate, self.share = (torch.zeros((), device=self.device) for _ in range(2))
        for group in loop.optimizer.param_groups:
            group["lr"] = self.rate
        self.trained = [p for p in loop.model.parameters() if p.requires_grad]
        self.totals: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], list[str]]] = {}
        self.pool, self.recorded = None, cuda
        self.under_way: deque[torch.cuda.Event] = deque()
        if cuda:
            torch.backends.cudnn.benchmark = True            # shapes stay what they are

    def on_stream(self):
        """The one stream of all work: gradients that were begun on another could not be recorded."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.stream)

    def __call__(self, step: GraphStep | Callable[[int], Losses], rate: float, average: float) -> None:
        """One update. ``average``: the share of the new weights in the averaged ones."""
        self.rate.fill_(rate)
        self.share.fill_(average)
        if isinstance(step, GraphStep) and self.recorded:
            names = self.replay(step)
        else:
            names = self.update(lambda: step(self.loop.iteration))
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1
        if self.stream is not None:
            self.under_way.append(torch.cuda.Event())
            self.under_way[-1].record()
            if len(self.under_way) > AHEAD:
                self.under_way.popleft().synchronize()

    def warm(self, step: GraphStep) -> None:
        """Compile and record every kind of update; no weight changes."""
        if self.stream is None:
            return
        began = time.monotonic()
        for group in self.loop.optimizer.param_groups:
            group["capturable"] = True
        try:
            for kind, arrays in step.examples():
                self.record(step, kind, arrays)
        except RuntimeError:                                 # slower, but a result
            traceback.print_exc()
            print("updates cannot be recorded here; going on without", flush=True)
            self.recorded, self.graphs = False, {}
            self.loop.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.device)
        print(f"{len(self.graphs)} kinds of updates recorded in {time.monotonic() - began:.0f} s", flush=True)

    def update(self, losses_of: Callable[[], Losses]) -> list[str]:
        optimizer = self.loop.optimizer
        losses = losses_of()
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        step_if_finite(optimizer, nn.utils.clip_grad_norm_(self.loop.model.parameters(), 1.0))
        self.average()
        for name, value in losses.items():
            self.total(name).add_(value.detach())
        return list(losses)

    @torch.no_grad()
    def average(self) -> None:
        averaged, weights = self.loop.averaged_and_weights()
        change = torch._foreach_sub(weights, averaged)
        torch._foreach_mul_(change, self.share)
        torch._foreach_add_(averaged, change)

    def total(self, name: str) -> torch.Tensor:
        if name not in self.totals:
            self.totals[name] = torch.zeros((), device=self.device)
        return self.totals[name]

    def means(self) -> dict[str, float]:
        """Of the losses since the last call; waits for them."""
        means = {name: float(self.totals[name]) / count for name, count in self.counts.items()}
        for total in self.totals.values():
            total.zero_()
        self.counts = {}
        return means

    def record(self, step: GraphStep, kind: Hashable, arrays: Sequence[np.ndarray]) -> None:
        inputs = [upload(array, self.device) for array in arrays]
        for _ in range(WARM):
            losses = step.losses(kind, inputs)
            losses["loss"].backward()
            names = list(losses)
            del losses
            self.loop.optimizer.zero_grad(set_to_none=True)
        for name in names:                                   # outside of the graph's memory, which others use as well
            self.total(name)
        self.loop.averaged_and_weights()
        if not self.graphs:
            self._begin_moments()
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, self.pool, self.stream):
            self.update(lambda: step.losses(kind, inputs))
        self.loop.optimizer.zero_grad(set_to_none=True)
        self.graphs[kind] = graph, inputs, names

    def replay(self, step: GraphStep) -> list[str]:
        kind, arrays = step.choose(self.loop.iteration)
        if kind not in self.graphs:
            self.record(step, kind, arrays)
        graph, inputs, names = self.graphs[kind]
        for there, array in zip(inputs, arrays):
            there.copy_(upload(array, self.device), non_blocking=True)
        graph.replay()
        return names

    def _begin_moments(self) -> None:
        """The optimizer makes its state in the first step: here in one that it skips, so that no graph makes it."""
        for p in self.trained:
            p.grad = torch.zeros_like(p)
        step_if_finite(self.loop.optimizer, torch.full((), float("nan"), device=self.device))
        self.loop.optimizer.zero_grad(set_to_none=True)


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """A step of a fused optimizer, skipped on the device where the gradient's ``norm`` is not finite."""
    optimizer.found_inf = (~torch.isfinite(norm)).float()
    optimizer.step()
