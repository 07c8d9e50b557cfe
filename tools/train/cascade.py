"""The baseline in two stages: the speech first, by a network of its own; then a picture that is driven by the sound.

Both are ``JointDiT``s, and together of the product's size. The speech network never sees a picture and has the
orchestrator's conditions; the picture network has the finished sound in place of noise, and neither text nor
alignment.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from streamchar_rt.denoiser.dit import DiTConfig, JointDiT, Style, Window, windowed_velocity
from streamchar_rt.orchestrator.condition import ConditionConfig

from .denoiser import Denoiser, flow_errors, flow_times, losses, noised

SPEECH_DEPTH, PICTURE_DEPTH = 6, 5       # 6 halves (sound alone) and 5 whole blocks are as much as the product's 8


class Cascade(nn.Module):
    def __init__(self, config: DiTConfig = DiTConfig(), condition: ConditionConfig = ConditionConfig(),
                 depths: tuple[int, int] = (SPEECH_DEPTH, PICTURE_DEPTH)):
        super().__init__()
        self.speech = Denoiser(replace(config, depth=depths[0]), condition)
        for block in self.speech.dit.blocks:
            block.video = block.audio                        # nothing is drawn: no weights for it
        self.picture = JointDiT(replace(config, depth=depths[1]))

    def picture_velocity(self, noisy: torch.Tensor, audio: torch.Tensor, reference, sink, motion, t: torch.Tensor,
                         style: Style) -> torch.Tensor:
        """Velocity (B, Tv, 48) of noisy video tokens for clean sound (B, Ta, 160)."""
        nothing = audio.new_zeros(*audio.shape[:2], self.picture.config.width)
        window = Window(noisy, audio, reference, sink, motion)
        return windowed_velocity(self.picture, window, t, style, None, nothing)[0]

    def losses(self, batch, draws: int, autocast, movement: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Of the picture network for a batch with picture, else of the speech network."""
        video, audio, (reference, sink, motion), _, style = batch
        if not video.shape[1]:
            return losses(self.speech, batch, draws, autocast)
        share = lambda x: x.repeat_interleave(draws, 0)
        video, audio = share(video), noised(share(audio), 0.3)   # at run time the sound has errors of its own
        style = Style(share(style.voice), share(style.emotion), share(style.mode))
        t = flow_times(len(audio), audio.device)
        mix, noise = t[:, None, None], torch.randn_like(video)
        with autocast:
            found = self.picture_velocity((1 - mix) * noise + mix * video, audio, reference, sink, motion, t, style)
        found, target = ((x, torch.zeros_like(audio)) for x in (found, video - noise))
        loss, _ = flow_errors(self.picture.config, found, target, t, torch.ones_like(mix), movement)
        return {"loss": loss, "video": loss}
