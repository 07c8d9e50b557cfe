"""Train the orchestrator: language model, condition head and pointer.

    python -m tools.train.orchestrator --streams DIR --out DIR --minutes 25

Exact supervision from the studio: cross-entropy on the unit of every half-frame, smooth L1 on the pointer's
position (paper). The head sees the true chunk noised to a random flow time, as it will see the denoiser's.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from streamchar_rt.orchestrator.model import Orchestrator, pointer_position

from .batches import OrchestratorBatch
from .denoiser import data_on
from .device_updates import GraphStep, Losses
from .loop import Loop, add_arguments
from .streams import Streams


def flow_times(count: int, device: torch.device) -> torch.Tensor:
    """Flow times (B,): pure noise for a third (planning), the rest anywhere, a few all clean."""
    t, kind = torch.rand(2, count, device=device)
    return torch.where(kind < 0.35, 0.0, torch.where(kind > 0.95, 1.0, t))


def losses(model: Orchestrator, batch: OrchestratorBatch, t: torch.Tensor, autocast) -> Losses:
    mix = t[:, None, None]
    noisy = (1 - mix) * torch.randn_like(batch.mel) + mix * batch.mel
    history = batch.history + 0.15 * torch.rand(len(t), 1, 1, device=t.device) * torch.randn_like(batch.history)
    with autocast:
        states = model.encode(batch.window, history, batch.voice, masked=history.device.type != "cpu")
        logits, offset = model.align(states, noisy, t)
    logits = logits.float()
    known = (batch.place >= 0).float()
    mean = lambda x: (x * known).sum() / known.sum().clamp(min=1)
    cross_entropy = F.cross_entropy(logits.transpose(1, 2), batch.place, ignore_index=-100)
    position = pointer_position(logits.masked_fill(torch.isinf(logits), -30.0), offset)
    pointer = mean(F.smooth_l1_loss(position.float(), batch.position, reduction="none"))
    return {"loss": cross_entropy + 0.1 * pointer, "ce": cross_entropy, "pointer": pointer,
            "accuracy": mean((logits.argmax(-1) == batch.place).float())}


def compile_layers(model: Orchestrator) -> None:
    """Fuse what is elementwise: a fifth of the time on a CPU."""
    for module in (model.llm, *model.layers):
        module.forward = torch.compile(module.forward, dynamic=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=25, lr=1.2e-3, batch=64)
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True,
                        help="on a GPU: record whole updates as CUDA graphs")
    args = parser.parse_args()
    loop = Loop(Orchestrator(), args)
    if args.compile:
        compile_layers(loop.model)
    sampler, _ = data_on(loop.device, Streams.load(args.streams), None)
    train, test = sampler(seed=args.seed + loop.iteration), sampler(test=True)
    config, fixed = loop.model.config, test.rows(512)

    def choose(_: int) -> tuple[str, tuple[np.ndarray, ...]]:
        return "chunks", (train.rows(args.batch), train.strays(args.batch))

    def compute(_: str, chosen: Sequence) -> Losses:
        batch = train.orchestrator(chosen[0], config, chosen[1])
        return losses(loop.model, batch, flow_times(args.batch, loop.device), loop.autocast())

    def evaluate() -> dict[str, float]:
        batch = test.orchestrator(fixed, config)
        result = {}
        for t in (0.0, 0.5, 1.0):
            values = losses(loop.model, batch, torch.full((len(fixed),), t, device=loop.device), loop.autocast())
            result[f"accuracy_t{t:g}"] = float(values["accuracy"])
            result[f"pointer_t{t:g}"] = float(values["pointer"])
        return result

    step = GraphStep(choose, compute, lambda: [choose(0)])
    loop.run(step if args.graphs else lambda iteration: step(iteration), evaluate, evaluate_seconds=120)


if __name__ == "__main__":
    main()
