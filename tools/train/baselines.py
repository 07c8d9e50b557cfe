"""Train the networks that the product is compared with: same size, same data, same minutes, each from nothing.

    python -m tools.train.baselines product    --streams DIR --scenes DIR --out DIR/product    --minutes 60
    python -m tools.train.baselines monolithic --streams DIR --scenes DIR --out DIR/monolithic --minutes 60
    python -m tools.train.baselines cascade    --streams DIR --scenes DIR --out DIR/cascade    --minutes 60
    python -m tools.train.baselines causal     --streams DIR --scenes DIR --out DIR/causal     --minutes 60

``product`` is the product's own recipe. ``monolithic`` reads the transcript itself, without orchestrator or alignment;
``cascade`` makes the speech first and then a picture that the sound drives; ``causal`` attends to nothing later inside
a chunk. All but the monolith get the orchestrator's conditions, so ``tools.evaluate.baselines``, which compares them,
needs a trained orchestrator.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from streamchar_rt.denoiser.dit import DiTConfig
from streamchar_rt.orchestrator.condition import ConditionConfig

from .batches import StreamSampler
from .cascade import Cascade
from .causal import CausalDiT
from .denoiser import Batches, Denoiser, compile_blocks, losses
from .distill import movement_of
from .loop import Loop, add_arguments, load_weights
from .monolithic import Monolith, TextSampler
from .scenes import Scenes
from .streams import Streams

KINDS = ("product", "monolithic", "cascade", "causal")


class Causal(Denoiser):
    def __init__(self, config: DiTConfig = DiTConfig(), condition: ConditionConfig = ConditionConfig()):
        super().__init__(config, condition)
        self.dit = CausalDiT(config)


def build(kind: str) -> nn.Module:
    """An untrained network of a kind."""
    return {"product": Denoiser, "monolithic": Monolith, "cascade": Cascade, "causal": Causal}[kind]()


def load(kind: str, folder: Path) -> nn.Module:
    """A trained one, in evaluation mode. Raises FileNotFoundError where ``folder`` has no checkpoint."""
    net = build(kind)
    net.load_state_dict(load_weights(folder))
    return net.eval().requires_grad_(False)


def losses_of(net: nn.Module, batch, draws: int, autocast, movement: torch.Tensor | None = None):
    """Each kind's own losses of a batch from its own sampler."""
    own = getattr(net, "losses", None)
    return own(batch, draws, autocast, movement) if own else losses(net, batch, draws, autocast, movement)


def parts_of(net: nn.Module) -> list[nn.Module]:
    """The network's DiTs."""
    return [net.speech.dit, net.picture] if isinstance(net, Cascade) else [net.dit]


def parameters(net: nn.Module) -> int:
    """Weights; those that two modules share count once."""
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    add_arguments(parser, minutes=60, lr=1e-3, batch=32)
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, help="folder of tools.train.scenes; without it speech alone is learnt")
    parser.add_argument("--draws", type=int, default=2, help="noises drawn for each context")
    parser.add_argument("--scene-batch", type=int, default=8)
    parser.add_argument("--speech-batches", type=int, default=1, help="batches without picture for each with it")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    net = build(args.kind)
    loop = Loop(net, args)
    streams = Streams.load(args.streams)
    scenes = Scenes.load(args.scenes) if args.scenes else None
    movement = movement_of(scenes, loop.device)
    if args.compile:
        for dit in parts_of(net):
            compile_blocks(dit)
    sampler = TextSampler if args.kind == "monolithic" else StreamSampler
    train = Batches(sampler(streams, seed=args.seed + loop.iteration), scenes, args.draws, loop.device)
    test = Batches(sampler(streams, test=True, seed=7), None, 1, loop.device)
    fixed = test.sample(64, False)
    print(f"{args.kind}: {parameters(net)} parameters", flush=True)

    def step(iteration: int) -> dict[str, torch.Tensor]:
        picture = scenes is not None and iteration % (1 + args.speech_batches) == 0
        batch = train.sample(args.scene_batch if picture else args.batch, picture)
        return losses_of(net, batch, args.draws, loop.autocast(), movement)

    def evaluate() -> dict[str, float]:
        torch.manual_seed(3)
        return {k: float(v) for k, v in losses_of(net, fixed, 1, loop.autocast()).items()}

    loop.run(step, evaluate, evaluate_seconds=240)


if __name__ == "__main__":
    main()
