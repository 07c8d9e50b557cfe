"""What a student is at run time: a few Euler steps from noise, and the one step of them that learns.

The student's answer at every step is its estimate of the clean chunk. Training ends a chunk at a random step and
scores the estimate there (backward simulation, Yin et al. 2024, "Improved Distribution Matching Distillation"; one
random exit step, Huang et al. 2025, "Self Forcing"): the steps before it are the student's own and carry no gradient.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from streamchar_rt.denoiser.dit import Style, Window, windowed_velocity
from streamchar_rt.denoiser.sampler import Sampler, followed

from .denoiser import Denoiser
from .recorded import Recorded

Pair = tuple[torch.Tensor, torch.Tensor]       # tokens of picture (B, Tv, 48) and sound (B, Ta, 160)
Guidance = tuple[float, float]                 # of picture and sound; 1 is none
UNGUIDED: Guidance = (1.0, 1.0)


@dataclass(frozen=True)
class Given:
    """What a chunk's denoiser is given beside the noisy tokens; batch first. None for a context that is absent."""
    reference: torch.Tensor | None
    sink: Pair | None
    motion: Pair | None
    features: torch.Tensor           # (B, past + slots + lookahead, F) of the alignment
    style: Style


@dataclass(frozen=True)
class Exit:
    """The student's input at the step that learns: tokens at flow time ``t`` (B,), and the noise they came from."""
    given: Given
    noisy: Pair
    t: torch.Tensor
    noise: Pair

    def estimate(self, student: Denoiser) -> Pair:
        """The student's clean chunk from here, differentiable."""
        return clean_estimate(self.noisy, velocity(student, self.given, self.noisy, self.t), self.t)


class Asked:
    """A network on a GPU that is asked for velocities without gradient: in place of the ``Denoiser`` in what follows."""

    def __init__(self, net: Denoiser):
        self.net, self._recorded = net, Recorded(self._velocity)

    def _velocity(self, reference, sink_video, sink_audio, motion_video, motion_audio, features, voice, emotion, mode,
                  video, audio, t, told) -> Pair:
        pair = lambda *parts: None if parts[0] is None else parts
        given = Given(reference, pair(sink_video, sink_audio), pair(motion_video, motion_audio), features,
                      Style(voice, emotion, mode))
        return velocity(self.net, given, (video, audio), t, told)

    def velocity(self, given: Given, noisy: Pair, t: torch.Tensor, told: torch.Tensor | None) -> Pair:
        nothing, style = (None, None), given.style
        return self._recorded(given.reference, *(given.sink or nothing), *(given.motion or nothing), given.features,
                              style.voice, style.emotion, style.mode, *noisy, t, told)


def velocity(net: Denoiser | Asked, given: Given, noisy: Pair, t: torch.Tensor, told: torch.Tensor | None = None) -> Pair:
    """Velocities at flow times ``t`` (N * B,), float32; N noisy chunks in a row share a context.

    ``told``: (N * B, 1, 1), 0 where the condition is withheld.
    """
    if isinstance(net, Asked):
        return net.velocity(given, noisy, t, told)
    share = lambda x: x.repeat_interleave(len(t) // len(given.features), 0)
    features = share(given.features) if told is None else share(given.features) * told
    style = Style(share(given.style.voice), share(given.style.emotion), share(given.style.mode))
    conditions = net.condition(features, style.voice)
    window = Window(*noisy, given.reference, given.sink, given.motion)
    video, audio = windowed_velocity(net.dit, window, t, style, *conditions)
    return video.float(), audio


def clean_estimate(noisy: Pair, velocity: Pair, t: torch.Tensor) -> Pair:
    """The expected clean tokens: x_t + (1 - t) v."""
    rest = 1 - t[:, None, None]
    return noisy[0] + rest * velocity[0], noisy[1] + rest * velocity[1]


def euler(x: Pair, velocity: Pair, steps: int) -> Pair:
    return x[0] + velocity[0] / steps, x[1] + velocity[1] / steps


@torch.no_grad()
def sample(net: Denoiser, given: Given, noise: Pair, steps: int, guidance: Guidance = UNGUIDED,
           sampler: Sampler = Sampler()) -> Pair:
    """Chunks from noise in ``steps`` steps, by default Euler's, with classifier-free guidance."""
    x, before = noise, (None, None)
    for i in range(steps):
        t = torch.full((len(x[1]),), i / steps, device=x[1].device)
        v = guided_velocity(net, given, x, t, guidance)
        x = tuple(followed(*parts, 1 / steps) for parts in zip(x, v, before, (sampler.picture, sampler.sound)))
        before = v
    return x


def guided_velocity(net: Denoiser | Asked, given: Given, noisy: Pair, t: torch.Tensor, guidance: Guidance) -> Pair:
    """``velocity`` with classifier-free guidance (Ho and Salimans 2022)."""
    if tuple(guidance) == UNGUIDED:
        return velocity(net, given, noisy, t)
    twice = lambda x: x.repeat_interleave(2, 0)
    told = (1 - torch.arange(2 * len(t), device=t.device) % 2).float()[:, None, None]         # 1, 0, 1, 0, ...
    both = velocity(net, given, (twice(noisy[0]), twice(noisy[1])), twice(t), told)
    return tuple(x[1::2] + scale * (x[0::2] - x[1::2]) for x, scale in zip(both, guidance))


@torch.no_grad()
def exit_at(student: Denoiser, given: Given, noise: Pair, steps: int, stop: int) -> Exit:
    """The student's own way through the first ``stop`` of ``steps``."""
    x, times = noise, torch.zeros(len(noise[1]), device=noise[1].device)
    for i in range(stop):
        x = euler(x, velocity(student, given, x, times + i / steps), steps)
    return Exit(given, x, times + stop / steps, noise)
