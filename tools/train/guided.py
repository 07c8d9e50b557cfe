"""Fold a teacher's classifier-free guidance into its own weights: one pass where guidance takes two.

    python -m tools.train.guided --teacher DIR --streams DIR --scenes DIR --out DIR --guidance 1 2 --minutes 4

Guidance distillation (Meng et al. 2023, "On Distillation of Guided Diffusion Models", stage one, for one scale): the
student's velocity at a noisy chunk learns the teacher's guided one. The result is a flow model again, sampled, exported
and distilled further like what ``tools.train.denoiser`` makes. The condition encoder stays the teacher's, since its mean
mel is a mean. Batches, and what ``--device cuda`` does, are the denoiser's.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .denoiser import AUDIO_WEIGHT, Batches, Denoiser, compile_blocks, data_on, flow_errors, flow_times, update_step
from .device_updates import Losses
from .distill import draw_noise, movement_of, unpack
from .distribution_matching import mix
from .few_step import Guidance, guided_velocity, velocity
from .loop import Loop, add_arguments, load_weights
from .scenes import Scenes
from .streams import Streams


def losses(student: Denoiser, teacher: Denoiser, batch: Any, draws: int, guidance: Guidance, autocast,
           movement: torch.Tensor | None = None) -> Losses:
    """How far the student's velocities are from the teacher's guided ones, in the units of ``flow_errors``.

    ``batch``: of ``Batches.sample``; ``draws``: noises for each context; ``movement``: weights (64,) of the picture's
    places.
    """
    truth, given = unpack(batch)
    clean = tuple(x.repeat_interleave(draws, 0) for x in truth)
    t = flow_times(len(clean[1]), clean[1].device)
    noisy = mix(draw_noise(clean), clean, t)
    with autocast:
        found = velocity(student, given, noisy, t)
        with torch.no_grad():
            wanted = guided_velocity(teacher, given, noisy, t, guidance)
    video, audio = flow_errors(student.dit.config, found, wanted, t, torch.ones_like(t)[:, None, None], movement)
    if not clean[0].shape[1]:
        return {"loss": AUDIO_WEIGHT * audio, "audio_only": audio}
    return {"loss": AUDIO_WEIGHT * audio + video, "audio": audio, "video": video}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=20, lr=3e-4, batch=32)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint folder of tools.train.denoiser")
    parser.add_argument("--guidance", type=float, nargs=2, default=(1.0, 2.0), metavar=("PICTURE", "SOUND"), help="1: none")
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, help="folder of tools.train.scenes: guides picture and speech")
    parser.add_argument("--draws", type=int, default=2, help="noises drawn for each context")
    parser.add_argument("--scene-batch", type=int, default=8)
    parser.add_argument("--speech-batches", type=int, default=1, help="batches without picture for each with it")
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True,
                        help="on a GPU: record whole updates as CUDA graphs")
    args = parser.parse_args(arguments)
    args.init = args.init or args.teacher
    student, teacher = Denoiser(), Denoiser()
    teacher.load_state_dict(load_weights(args.teacher))
    # The teacher never learns; but weights that could share a GPU's compiled graphs with the student's.
    teacher.to(args.device).eval().requires_grad_(torch.device(args.device).type == "cuda")
    student.condition.requires_grad_(False)
    loop = Loop(student, args, warmup=50, decay=args.ema_decay)
    streams, scenes = Streams.load(args.streams), Scenes.load(args.scenes) if args.scenes else None
    movement = movement_of(scenes, loop.device)
    if args.compile:
        for net in (student, teacher):
            compile_blocks(net.dit)
    sampler, scenes = data_on(loop.device, streams, scenes)
    train = Batches(sampler(seed=args.seed + loop.iteration), scenes, args.draws, loop.device)
    fixed = Batches(sampler(test=True, seed=7), None, 1, loop.device).sample(128, False)

    def evaluate() -> dict[str, float]:
        """On held-out speech; ``moved`` is what the guidance changes, in the same units."""
        values = {}
        for name, net in (("audio", student), ("moved", teacher)):
            torch.manual_seed(3)
            values[name] = float(losses(net, teacher, fixed, 1, args.guidance, loop.autocast())["audio_only"])
        return values

    step = update_step(train, args, lambda batch: losses(
        student, teacher, batch, args.draws, args.guidance, loop.autocast(), movement))
    loop.run(step if args.graphs else lambda iteration: step(iteration), evaluate, evaluate_seconds=60)


if __name__ == "__main__":
    main()
