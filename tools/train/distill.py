"""Stage I: distil the teacher into a student of few steps, on single chunks with their true history.

    python -m tools.train.distill --teacher DIR --streams DIR --out DIR --minutes 30                     # speech only
    python -m tools.train.distill --teacher DIR --streams DIR --scenes DIR --out DIR --minutes 60        # joint
    python -m tools.train.distill --teacher DIR --streams DIR --scenes DIR --out DIR --only picture      # or sound
    python -m tools.train.distill --teacher DIR --init DIR --steps 2 --regression-minutes 5 ...          # then fewer

The student starts from the teacher, or with ``--init`` from a student of more steps. Its checkpoint has the names of
``tools.train.denoiser``'s, and is measured (``tools.evaluate.denoiser``) and exported like one.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch

from .batches import StreamSampler
from .denoiser import Batches, data_on
from .distribution_matching import Distiller, add_distillation_arguments, check_distillation_arguments
from .few_step import Exit, Given, Pair, exit_at, sample
from .scenes import Scenes
from .streams import Streams


def movement_of(scenes: Scenes | None, device: torch.device) -> torch.Tensor | None:
    """Weights (64,) of the picture's places, as the teacher's training has them."""
    return None if scenes is None else (0.5 + 0.5 * torch.from_numpy(scenes.movement()).flatten()).to(device)


def draw_noise(like: Pair) -> Pair:
    return tuple(map(torch.randn_like, like))


def unpack(batch) -> tuple[Pair, Given]:
    """``Batches.sample``'s result as the true chunk and what goes with it."""
    video, audio, (reference, sink, motion), features, style = batch
    return (video, audio), Given(reference, sink, motion, features, style)


def judge(student, truth: Pair, given: Given, steps: int) -> dict[str, float]:
    """The whole sampler on held-out chunks: error against the truth, and energy about the condition's mean as a share
    of the truth's, which sampling that seeks the mean loses."""
    generated = sample(student, given, draw_noise(truth), steps)[1]
    mean = student.dit.audio_mean(student.condition(given.features, given.style.voice)[1]).float()
    energy = lambda x: float((x - mean).square().mean())
    return {"error": float((generated - truth[1]).square().mean()), "energy": energy(generated) / energy(truth[1])}


def evaluation(distiller: Distiller, streams: Streams) -> Callable[[], dict[str, float]]:
    """``judge`` on held-out speech."""
    loop = distiller.loop
    test = Batches(StreamSampler(streams, test=True, seed=7), None, 1, loop.device)
    truth, given = unpack(test.sample(64, False))

    def evaluate() -> dict[str, float]:
        torch.manual_seed(3 + loop.iteration)
        with loop.autocast():
            return judge(distiller.student, truth, given, distiller.args.steps)

    return evaluate


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_distillation_arguments(parser, minutes=30, lr=1e-4, batch=24)
    args = parser.parse_args(arguments)
    check_distillation_arguments(parser, args)
    scenes = Scenes.load(args.scenes) if args.scenes else None
    distiller = Distiller(args, movement=movement_of(scenes, torch.device(args.device)))
    loop, streams = distiller.loop, Streams.load(args.streams)
    sampler, scenes = data_on(loop.device, streams, scenes)
    train = Batches(sampler(seed=args.seed + loop.iteration), scenes, 1, loop.device)

    def draw(picture: bool) -> list[Exit]:
        truth, given = unpack(train.sample(args.scene_batch if picture else args.batch, picture))
        stop = int(torch.randint(args.steps, ()))
        with loop.autocast():
            return [exit_at(distiller.asked_student, given, draw_noise(truth), args.steps, stop)]

    distiller.run(draw, evaluation(distiller, streams), scenes is not None)


if __name__ == "__main__":
    main()
