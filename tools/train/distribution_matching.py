"""Distribution matching distillation: what both stages share (paper, section 3.4).

After DMD (Yin et al. 2024), its successor DMD2 and Self Forcing (Huang et al. 2025). Three networks of one shape: the
student that is trained; the frozen teacher, the score of real chunks, with its guidance folded in; and the critic, the
score of the student's chunks, which follows the student by flow matching, several of its updates to one of the
student's. A chunk of the student's is noised again; where critic and teacher differ about the clean chunk, the
student is moved from what the critic expects towards what the teacher expects.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .denoiser import AUDIO_WEIGHT, Denoiser, compile_blocks, flow_errors, train_picture_only, train_sound_only
from .device_updates import step_if_finite
from .few_step import UNGUIDED, Asked, Exit, Pair, clean_estimate, guided_velocity, sample, velocity
from .loop import Loop, add_arguments, load_weights

Score = Callable[[Pair, torch.Tensor], Pair]     # noisy tokens at flow times (B,) to the expected clean tokens
LEAST_SCALE = 1e-3                               # of the gradient's normalisation


def add_distillation_arguments(parser: argparse.ArgumentParser, *, minutes: float, lr: float, batch: int) -> None:
    add_arguments(parser, minutes=minutes, lr=lr, batch=batch)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint folder of tools.train.denoiser")
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, help="folder of tools.train.scenes: distils picture and speech")
    parser.add_argument("--scene-batch", type=int, default=4)
    parser.add_argument("--speech-batches", type=int, default=1, help="batches without picture for each with it")
    parser.add_argument("--only", choices=("picture", "sound"),
                        help="distil the layers of one alone, and leave what the other is made with as it is")
    parser.add_argument("--steps", type=int, default=4, help="of the student's sampler")
    parser.add_argument("--critic-lr", type=float, help="by default three times --lr")
    parser.add_argument("--critic-ratio", type=int, default=5, help="updates of the critic for each of the student")
    parser.add_argument("--critic-draws", type=int, default=1, help="noises the critic sees for each chunk")
    parser.add_argument("--guidance", type=float, nargs=2, default=UNGUIDED, metavar=("PICTURE", "SOUND"),
                        help="of the teacher, folded into the student; 1: none, or a teacher of tools.train.guided's")
    parser.add_argument("--shift", type=float, default=1.0,
                        help="of the flow times at which chunks are scored; above 1: more noise, below: less")
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--regression-minutes", type=float, default=0.0,
                        help="begin by regression on the teacher's own sampling, as a student of few steps wants")
    parser.add_argument("--teacher-steps", type=int, default=16, help="of that sampling")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True,
                        help="on a GPU: record what networks do without gradient as CUDA graphs")


def check_distillation_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Settles what ``--only`` means for the others; ends the program where they do not fit together."""
    if (args.only == "picture") != bool(args.scenes) and args.only:
        parser.error("--only picture wants --scenes, and --only sound none")
    if args.only == "picture":
        args.speech_batches = 0


def score_times(count: int, shift: float, device: torch.device) -> torch.Tensor:
    """Flow times (B,): noise levels uniform in [0.02, 0.98], then shifted as in SD3 (Esser et al. 2024)."""
    noise = torch.rand(count, device=device)
    noise = shift * noise / (1 + (shift - 1) * noise)
    return 1 - noise.clamp(0.02, 0.98)


def mix(noise: Pair, clean: Pair, t: torch.Tensor) -> Pair:
    t = t[:, None, None]
    return tuple((1 - t) * n + t * x for n, x in zip(noise, clean))


def matching_loss(clean: Pair, real: Score, fake: Score, t: torch.Tensor, movement: torch.Tensor | None = None,
                  noise: Pair | None = None, picture: bool = False) -> torch.Tensor:
    """Its gradient in the student's ``clean`` tokens is (fake - real) / mean |clean - real|, over their number.

    The normalisation is each chunk's and each modality's own. ``movement``: weights (64,) of the picture's places;
    ``picture``: the sound does not count.
    """
    with torch.no_grad():
        noise = noise or tuple(map(torch.randn_like, clean))
        noisy = mix(noise, clean, t)
        expected = real(noisy, t), fake(noisy, t)
    loss = clean[1].new_zeros(())
    for i, (x, r, f) in enumerate(zip(clean, *expected)):
        if not x.shape[1] or (picture and i):
            continue
        scale = (x.detach() - r).abs().mean((1, 2), keepdim=True).clamp(min=LEAST_SCALE)
        gradient = (f - r) / scale
        square = (x - (x.detach() - gradient)).square()
        if i == 0 and movement is not None:
            square = square.mean(-1).unflatten(1, (-1, len(movement))) * movement
        loss = loss + 0.5 * square.mean()
    return loss


class Distiller:
    """The three networks and their alternation; ``Loop`` does the rest. What is scored comes from the stage."""

    def __init__(self, args: argparse.Namespace, networks: tuple[Denoiser, Denoiser, Denoiser] | None = None,
                 movement: torch.Tensor | None = None):
        """``networks``: student, teacher and critic to fill; by default of the shipped size. ``movement``: weights
        (64,) of the picture's places."""
        student, self.teacher, self.critic = networks or (Denoiser(), Denoiser(), Denoiser())
        self.args = args
        args.init = args.init or args.teacher
        args.critic_lr = args.critic_lr or 3 * args.lr
        fill = lambda net, weights: net.load_state_dict({k: v for k, v in weights.items() if k in net.state_dict()})
        fill(self.teacher, load_weights(args.teacher))
        fill(self.critic, self._critic_weights())
        # The teacher never learns; but weights that could share a GPU's compiled graphs with the student's.
        self.teacher.to(args.device).eval().requires_grad_(torch.device(args.device).type == "cuda")
        self.critic.to(args.device)
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), args.critic_lr, betas=(0.0, 0.999),
                                           weight_decay=0.01, fused=True)
        if args.only:
            {"picture": train_picture_only, "sound": train_sound_only}[args.only](student)
        self.loop = Loop(student, args, betas=(0.0, 0.999), warmup=20, decay=args.ema_decay,
                         beside={"critic": self.critic, "critic_optimizer": self.optimizer})
        self.student = student
        # The three where no gradient is wanted.
        asked = Asked if self.loop.device.type == "cuda" and args.graphs else lambda net: net
        self.asked_student, self.asked_teacher, self.asked_critic = map(asked, (student, self.teacher, self.critic))
        self.movement = movement
        if args.compile:
            for net in (student, self.teacher, self.critic):
                compile_blocks(net.dit)

    def _critic_weights(self) -> dict[str, torch.Tensor]:
        """A distilled student's own critic; of a start that has none its weights, the score of what it draws."""
        state = torch.load(self.args.init / "checkpoint.pt", map_location="cpu", weights_only=True)
        return state.get("beside", {}).get("critic") or load_weights(self.args.init)

    @property
    def regressing(self) -> bool:
        return self.loop.seconds < 60 * self.args.regression_minutes

    def run(self, draw: Callable[[bool], list[Exit]], evaluate: Callable[[], dict[str, float]], pictures: bool) -> None:
        """Train until the time is over. ``draw(picture)`` is fresh work of the student's; ``pictures``: batches with
        picture take turns with ``--speech-batches`` without."""

        def step(iteration: int) -> dict[str, torch.Tensor]:
            picture = pictures and iteration % (1 + self.args.speech_batches) == 0
            values = self.step(lambda: draw(picture))
            return {"loss": values.pop("loss"), **{k + ("_picture" if picture else ""): v for k, v in values.items()}}

        if self.loop.device.type == "cuda":
            self.warm(draw, [False] if not pictures else [True, False] if self.args.speech_batches else [True])
        self.loop.run(step, evaluate, evaluate_seconds=60)

    def warm(self, draw: Callable[[bool], list[Exit]], kinds: list[bool]) -> None:
        """Let everything be compiled before the clock starts; nothing is learnt."""
        began = time.monotonic()
        scores = (self.critic_loss, self.matching, *([self.regression] if self.args.regression_minutes else []))
        for picture in kinds * 2:                            # twice: not every draw has a past
            for work in draw(picture):
                for score in scores:
                    score(work).backward()
                for net in (self.student, self.critic):
                    net.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.loop.device)
        print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)

    def step(self, exits: Callable[[], list[Exit]]) -> dict[str, torch.Tensor]:
        """The critic's updates, then the student's loss. ``exits()`` is fresh work of the student's."""
        for group in self.optimizer.param_groups:            # the same schedule as the student's
            group["lr"] = self.args.critic_lr * self.loop.rate
        for _ in range(self.args.critic_ratio):
            critic = self.update_critic(exits())
        name, score = ("regression", self.regression) if self.regressing else ("matching", self.matching)
        loss = torch.stack([score(e) for e in exits()]).mean()
        return {"loss": loss, name: loss, "critic": critic}

    def update_critic(self, exits: list[Exit]) -> torch.Tensor:
        """One step of flow matching on the student's chunks; returns the loss before it."""
        loss = torch.stack([self.critic_loss(e) for e in exits]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
        if self.loop.device.type == "cuda":
            step_if_finite(self.optimizer, norm)             # without waiting for the norm
        elif torch.isfinite(norm):
            self.optimizer.step()
        return loss.detach()

    def critic_loss(self, work: Exit) -> torch.Tensor:
        with torch.no_grad(), self.loop.autocast():
            clean = work.estimate(self.asked_student)
        clean = tuple(x.repeat_interleave(self.args.critic_draws, 0) for x in clean)
        noise = tuple(map(torch.randn_like, clean))
        t = score_times(len(clean[1]), self.args.shift, self.loop.device)
        with self.loop.autocast():
            found = velocity(self.critic, work.given, mix(noise, clean, t), t)
        target = tuple(x - n for x, n in zip(clean, noise))
        told = torch.ones_like(t)[:, None, None]
        video, audio = flow_errors(self.critic.dit.config, found, target, t, told, self.movement)
        return AUDIO_WEIGHT * audio + (video if clean[0].shape[1] else 0.0)

    def matching(self, work: Exit) -> torch.Tensor:
        """The distribution matching loss of the student's estimate."""
        with self.loop.autocast():
            clean = work.estimate(self.student)
            real = lambda noisy, t: clean_estimate(
                noisy, guided_velocity(self.asked_teacher, work.given, noisy, t, self.args.guidance), t)
            fake = lambda noisy, t: clean_estimate(noisy, velocity(self.asked_critic, work.given, noisy, t), t)
            return matching_loss(clean, real, fake, score_times(len(clean[1]), self.args.shift, self.loop.device),
                                 self.movement, picture=self.args.only == "picture")

    def regression(self, work: Exit) -> torch.Tensor:
        """Square distance of the student's estimate to where the teacher's many steps lead from the same noise."""
        with self.loop.autocast():
            clean = work.estimate(self.student)
            target = sample(self.asked_teacher, work.given, work.noise, self.args.teacher_steps, self.args.guidance)
        video, audio = ((x - y).square().mean() for x, y in zip(clean, target))
        sound = 0.0 if self.args.only == "picture" else AUDIO_WEIGHT * audio / self.teacher.dit.config.audio_variance
        return sound + (video if clean[0].shape[1] else 0.0)
