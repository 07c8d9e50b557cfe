"""Train the joint audio-video DiT with flow matching (paper, section 3).

    python -m tools.train.denoiser --streams DIR --out DIR --minutes 30                      # speech only
    python -m tools.train.denoiser --streams DIR --scenes DIR --init DIR --out DIR --minutes 60   # joint
    python -m tools.train.denoiser --streams DIR --init DIR --sound --out DIR --minutes 40   # the sound's layers alone

Each context (reference, sink, motion) is used for several noise draws. Motion and sink get a little noise, so
that the model forgives its own errors in a rollout. The alignment is the studio's truth; a tenth of the chunks
see no condition at all, for classifier-free guidance. With ``--scenes``, batches with and without picture take
turns, since speech alone costs a twentieth. On a GPU the data lives in its memory, and each kind of update is
recorded as a CUDA graph: give large batches.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from streamchar_rt.denoiser import dit as dit_module
from streamchar_rt.denoiser.dit import DiTConfig, JointDiT, SegmentAttention, Style, Window, patchify, windowed_velocity
from streamchar_rt.orchestrator.condition import ConditionConfig, ConditionEncoder

from .batches import StreamSampler
from .device_updates import GraphStep, Losses
from .loop import Loop, add_arguments, load_weights
from .on_device import DeviceSampler, DeviceScenes, DeviceStreams
from .scenes import Scenes
from .streams import CHUNK, Streams


STEPS = 4                        # of the sampler that the model is made for
AUDIO_WEIGHT = 0.3               # makes the loss of the sound about as large as that of the picture


class Denoiser(nn.Module):
    """The DiT with the condition encoder that feeds it."""

    def __init__(self, config: DiTConfig = DiTConfig(), condition: ConditionConfig = ConditionConfig()):
        super().__init__()
        self.dit = JointDiT(config)
        self.condition = ConditionEncoder(condition)


def compile_blocks(dit: JointDiT) -> None:
    """Fuse what is elementwise: about a third of the time on a CPU."""
    torch._dynamo.config.recompile_limit = 64
    for block in dit.blocks:
        block.project = torch.compile(block.project, dynamic=False)
        block.finish = torch.compile(block.finish, dynamic=False)
    SegmentAttention.prepare = staticmethod(torch.compile(dit_module.normalize_and_rotate, dynamic=False))


def noised(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Context with noise of a random size up to ``strength``, half of the time none."""
    size = strength * torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device)
    size = size * (torch.rand_like(size) < 0.5)
    return x + size * torch.randn_like(x)


def audio_tokens(mel: torch.Tensor) -> torch.Tensor:
    """Mel (B, 2 * n, 80) to tokens (B, n, 160)."""
    return mel.reshape(len(mel), mel.shape[1] // 2, -1)


def train_sound_only(model: Denoiser) -> None:
    """Leave what the picture is made with as it is: of a joint model only the sound's own layers go on learning."""
    _train_only(model, "audio")


def train_picture_only(model: Denoiser) -> None:
    """The picture's own layers alone go on learning; what the sound is made with stays."""
    _train_only(model, "video")


def _train_only(model: Denoiser, kind: str) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith((f"dit.{kind}_in.", f"dit.{kind}_out.")) or f".{kind}." in name)


class Kind(NamedTuple):
    """What all chunks of a batch have in common: the shapes of its window."""
    picture: bool
    sink: bool
    motion: bool


class Batches:
    """Windows with their targets, from streams and, for joint training, scenes."""

    def __init__(self, sampler: StreamSampler, scenes: Scenes | None, draws: int, device: torch.device):
        self.sampler, self.scenes, self.draws, self.device = sampler, scenes, draws, device
        self.sink_share = 0.4

    def sample(self, count: int, picture: bool):
        """Clean video (B, Tv, 48), clean audio (B, 16, 160), context window parts, features, style."""
        return self.build(*self.choose(count, picture))

    def choose(self, count: int, picture: bool) -> tuple[Kind, tuple[np.ndarray, ...]]:
        """Which chunks, and what is shown with them: the streams' rows, or the scenes' places and their sinks'."""
        rng = self.sampler.rng
        chunks = self.scenes.choose(count, rng) if picture else (self.sampler.rows(count),)
        # Most batches have no sink; a stream's first chunks never have one.
        sink = picture and rng.random() < self.sink_share
        return Kind(picture, sink, rng.random() >= 0.06), chunks       # a session's first chunk has no past

    def build(self, kind: Kind, chunks: Sequence[np.ndarray]):
        """``sample`` of what was chosen."""
        if kind.picture:
            scene = self.scenes.gather(*chunks)
            rows = scene.rows
        else:
            rows = self.sampler.put(chunks[0])
        count = len(rows)
        mel = lambda r, begin: audio_tokens(self.sampler.mel(r, begin, CHUNK)).to(self.device)
        audio, motion_audio = mel(rows, 0), noised(mel(rows, -CHUNK), 0.3)
        sink = None
        if kind.sink:
            sink = (patchify(scene.sink).to(self.device), mel(scene.sink_rows[:, None], 0))
        if kind.picture:
            video = patchify(scene.video).to(self.device)
            motion = (noised(patchify(scene.motion).to(self.device), 0.3), motion_audio)
            reference = patchify(scene.reference).to(self.device)
            emotion, mode = scene.emotion, scene.mode
        else:
            video = audio.new_zeros(count, 0, 48)
            motion, reference = (video, motion_audio), None
            emotion = torch.full((count,), 5, device=self.device)
            mode = torch.full((count,), 3, device=self.device)
        if not kind.motion:
            motion = None
        voice = torch.as_tensor(rows[:, 1]).clone()
        style = Style(voice.to(self.device), emotion.to(self.device), mode.to(self.device))
        return video, audio, (reference, sink, motion), self.sampler.features(rows).to(self.device), style


def flow_times(count: int, device: torch.device) -> torch.Tensor:
    """Half of them where the STEPS-step Euler sampler stops, the rest logit-normal with some uniform mass."""
    t = torch.sigmoid(torch.randn(count, device=device) - 0.2)
    t = torch.where(torch.rand(count, device=device) < 0.3, torch.rand(count, device=device), t)
    stops = torch.randint(STEPS, (count,), device=device) / STEPS
    return torch.where(torch.rand(count, device=device) < 0.5, stops, t)


def flow_errors(config: DiTConfig, velocity: tuple[torch.Tensor, torch.Tensor],
                target: tuple[torch.Tensor, torch.Tensor], t: torch.Tensor, told: torch.Tensor,
                movement: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean square errors of the velocities of picture and sound at flow times ``t`` (B,).

    The sound's in units of what the mean leaves uncertain at each flow time, so that all times weigh the same;
    where nothing was ``told`` (B, 1, 1) the mean says nothing, and the errors are as much larger. ``movement``:
    weights (64,) of the picture's places; without picture its error is not a number.
    """
    mix, variance = t[:, None, None], config.audio_variance
    units = ((1 - mix) ** 2 + mix ** 2 * variance) / variance * torch.where(told > 0, 1.0, variance)
    error_v = (velocity[0].float() - target[0]).square().mean(-1)
    if movement is not None:
        error_v = error_v.unflatten(1, (-1, len(movement))) * movement
    return error_v.mean(), ((velocity[1] - target[1]).square() * units).mean()


def losses(model: Denoiser, batch, draws: int, autocast, movement: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """``movement``: weights (64,) of the picture's places."""
    video, audio, (reference, sink, motion), features, style = batch
    share = lambda x: x.repeat_interleave(draws, 0)
    video, audio = share(video), share(audio)
    style = Style(share(style.voice), share(style.emotion), share(style.mode))
    features = share(features)
    told = (torch.rand(len(features), 1, 1, device=features.device) >= 0.1).float()
    t = flow_times(len(audio), audio.device)
    mix = t[:, None, None]
    noise_v, noise_a = torch.randn_like(video), torch.randn_like(audio)
    with autocast:
        condition_video, condition_audio = model.condition(features * told, style.voice)
        mean = model.dit.audio_mean(condition_audio)
        window = Window((1 - mix) * noise_v + mix * video, (1 - mix) * noise_a + mix * audio, reference, sink, motion)
        v, a = windowed_velocity(model.dit, window, t, style, condition_video, condition_audio)
    loss_v, loss_a = flow_errors(model.dit.config, (v, a), (video - noise_v, audio - noise_a), t, told, movement)
    mean_error = (mean.float() - audio).square()
    total = AUDIO_WEIGHT * loss_a + mean_error.mean()
    if not video.shape[1]:
        return {"loss": total, "audio_only": loss_a, "mean": (mean_error * told).sum() / told.sum() / mean_error[0].numel()}
    return {"loss": total + loss_v, "audio": loss_a, "video": loss_v}


def data_on(device: torch.device, streams: Streams, scenes: Scenes | None):
    """What makes samplers of the streams, and the scenes, for batches on ``device``: a GPU holds all of them."""
    if device.type == "cpu":
        return partial(StreamSampler, streams), scenes
    return partial(DeviceSampler, DeviceStreams(streams, device)), scenes and DeviceScenes(scenes, device)


def update_step(train: Batches, args: argparse.Namespace, losses_of: Callable[[Any], Losses]) -> GraphStep:
    """Batches with picture take turns with ``--speech-batches`` without. ``losses_of``: what ``Batches.sample`` gives."""
    sizes = {True: args.scene_batch, False: args.batch}

    def choose(iteration: int) -> tuple[Kind, tuple[np.ndarray, ...]]:
        picture = train.scenes is not None and iteration % (1 + args.speech_batches) == 0
        return train.choose(sizes[picture], picture)

    def examples() -> Iterator[tuple[Kind, tuple[np.ndarray, ...]]]:
        pictures = [False] if train.scenes is None else [True, False] if args.speech_batches else [True]
        for picture, motion in product(pictures, (True, False)):
            chunks = train.choose(sizes[picture], picture)[1]
            yield from ((Kind(picture, sink, motion), chunks) for sink in ((False, True) if picture else (False,)))

    def compute(kind: Kind, chunks: Sequence) -> Losses:
        return losses_of(train.build(kind, chunks))

    return GraphStep(choose, compute, examples)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=30, lr=1e-3, batch=32)
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, help="folder of tools.train.scenes: trains picture and speech")
    parser.add_argument("--condition", type=Path, help="checkpoint folder of tools.train.condition to start from")
    parser.add_argument("--draws", type=int, default=2, help="noises drawn for each context")
    parser.add_argument("--scene-batch", type=int, default=8)
    parser.add_argument("--speech-batches", type=int, default=1, help="batches without picture for each with it")
    parser.add_argument("--held-scenes", type=int, default=0, help="streams whose scenes are kept to judge by")
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--movement", action=argparse.BooleanOptionalAction, default=True,
                        help="weigh the places of the picture by how much they move")
    parser.add_argument("--sound", action="store_true",
                        help="train the sound's layers alone, without --scenes: speech improves, the picture stays")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True,
                        help="on a GPU: record whole updates as CUDA graphs")
    args = parser.parse_args(arguments)
    if args.sound and args.scenes:
        parser.error("--sound leaves the picture's layers alone: give no --scenes")
    if args.held_scenes and not args.scenes:
        parser.error("--held-scenes wants --scenes")
    model = Denoiser()
    if args.sound:
        train_sound_only(model)
    learned = load_weights(args.condition) if args.condition else {}
    model.load_state_dict(learned, strict=False)
    loop = Loop(model, args, decay=args.ema_decay, keep=frozenset(learned))
    streams = Streams.load(args.streams)
    scenes = Scenes.load(args.scenes) if args.scenes else None
    movement = None
    if scenes is not None and args.movement:
        # Half for all places alike, half for where something moves: the mouth is two tokens of sixty-four.
        movement = (0.5 + 0.5 * torch.from_numpy(scenes.movement()).flatten()).to(loop.device)
    if args.compile:
        compile_blocks(model.dit)
    sampler, scenes = data_on(loop.device, streams, scenes)
    held = None
    if args.held_scenes:
        scenes, held = scenes.split(args.held_scenes)
    train = Batches(sampler(seed=args.seed + loop.iteration), scenes, args.draws, loop.device)
    test = Batches(sampler(test=True, seed=7), held, 1, loop.device)
    fixed = {"": test.sample(128, False)}
    if held is not None:
        fixed["picture_"] = test.build(Kind(True, False, True), test.choose(128, True)[1])

    def evaluate() -> dict[str, float]:
        values = {}
        for name, batch in fixed.items():
            torch.manual_seed(3)
            found = losses(model, batch, 1, loop.autocast(), movement if name else None)
            values |= {name + k: float(v) for k, v in found.items()}
        return values

    step = update_step(train, args, lambda batch: losses(model, batch, args.draws, loop.autocast(), movement))
    loop.run(step if args.graphs else lambda iteration: step(iteration), evaluate, evaluate_seconds=120)


if __name__ == "__main__":
    main()
