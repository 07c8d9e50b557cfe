"""The orchestrator's side of chunks: the language model once, the condition head at the first ``PLANS`` steps.

The paper runs the condition head at every denoising step. Here the alignment of the first step, made of the text and
of what was heard before, is kept: renewed on half-denoised sound it follows what the noise happens to say, and more
words are misheard (``python -m tools.evaluate.speech --plans 4``).

Several streams go through the language model and the condition head's alignment together.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .batching import together
from .denoiser import noise
from .holds import NOT_HELD, held_units, with_holds
from .orchestrator.alignment import elapsed_in, monotonic_path
from .orchestrator.condition import LONGEST
from .orchestrator.eyes import Eyes, plan_eyes
from .orchestrator.model import States
from .orchestrator.units import FIRST_PHONE, PAD
from .resync import JUMPED, PHONE, STALLED, leaps, steady_lengths, steady_path

if TYPE_CHECKING:
    from .model_state import StreamState
    from .models import Models, Style

SHORTEST_PHONE = 2     # half-frames: a phone of 20 ms is not heard
PLANS = 1              # denoising steps that align the chunk anew, from the first on


class Plan:
    """What one stream's chunk is to say, and when."""

    def __init__(self, state: "StreamState", style: "Style"):
        config = state.models.orchestrator.config
        self.state, self.style = state, style
        self.first = state.pointer - config.window_before
        self.rows = state.units.window(self.first, config.window)
        # A unit before the pointer is context for the model, never a place to go.
        self.blocked = (self.rows[:, 0] == PAD) | (np.arange(config.window) < config.window_before)
        self.minimum = np.where(self.rows[:, 0] >= FIRST_PHONE, SHORTEST_PHONE, 1)
        self.steady = np.where(self.minimum > 1, PHONE, self.minimum)     # ... where the pointer leaps
        self.hold = held_units(state.holds, self.first, config.window)
        self.states: States | None = None          # the language model's, see ``read``
        self.moves: np.ndarray | None = None       # of the eyes, float32 (frames, 3), see ``look``
        self.astray: str | None = None             # how the pointer had left the speech, see ``resync``

    def pushed(self) -> np.ndarray:
        """The path to take where the pointer stood still before the chunk and does so again, int64 (slots + lookahead,);
        -1 where it did not."""
        config = self.state.models.orchestrator.config
        steps = config.slots + config.lookahead
        if not self.state.stalled:
            return np.full(steps, -1)
        return steady_path(steady_lengths(self.rows[:, 0]), self.blocked, config.window_before, self.state.elapsed + 1, steps)

    def look(self) -> None:
        """Decide when the eyes blink and where they look, for models that can draw it."""
        state, style, models = self.state, self.style, self.state.models
        if models.eyes is not None:
            random = noise.generator(seed=state.seed, chunk=state.chunk_index, step=0, stream=noise.EYES)
            self.moves, self.eyes_after = plan_eyes(Eyes(*state.eyes), models.chunk_frames, style.mode, style.emotion, random)

    def follow(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c_v and c_a for the pointer's logits (slots + lookahead, W); keeps the alignment that they come from."""
        models, config = self.state.models, self.state.models.orchestrator.config
        masked = np.where(self.blocked, -np.inf, logits.numpy().astype(np.float64))
        at = config.window_before
        find = lambda minimum: monotonic_path(masked, at, minimum=minimum, elapsed=self.state.elapsed + 1)
        self.path = find(self.minimum)
        if leaps(torch.from_numpy(self.path), torch.from_numpy(self.minimum)):
            self.path, self.astray = find(self.steady), JUMPED
        elif self.state.stalled and self.path[config.slots - 1] == at:
            self.path, self.astray = self.pushed(), STALLED
        shifted = np.exp(masked - masked.max(1, keepdims=True))
        chosen = shifted[np.arange(len(self.path)), self.path] / shifted.sum(1)
        self.confidence = float(chosen[: config.slots].mean())
        if (self.hold != NOT_HELD).any():
            self.path = with_holds(torch.from_numpy(self.path), at, torch.from_numpy(self.hold)).numpy()
        self.elapsed = np.minimum(elapsed_in(self.path, self.state.elapsed + 1, at), LONGEST)
        rows = np.concatenate([self.state.past, np.concatenate([self.rows[self.path], self.elapsed[:, None]], 1)])
        self.half_frames = rows
        return models.orchestration.conditions(*map(torch.from_numpy, (rows[None], np.array([self.style.voice]))))


def read(models: "Models", plans: Sequence[Plan]) -> list[States]:
    """The language model's states, (1, ...) for each plan."""
    config = models.orchestrator.config
    units, voices = np.stack([plan.rows for plan in plans]), np.array([plan.style.voice for plan in plans])
    history = together([plan.state.history[None] for plan in plans]).reshape(len(plans), config.history_tokens, -1)
    states = models.orchestration.read(torch.from_numpy(units), history, torch.from_numpy(voices))
    if len(plans) == 1:
        return [states]
    return [States(*parts) for parts in zip(states.memory.split(1), states.keys.split(1), states.padding.split(1))]


def align(models: "Models", states: Sequence[States], mel: Sequence[torch.Tensor], t: float) -> list[torch.Tensor]:
    """The pointer's logits (slots + lookahead, W) for noisy mels (1, slots, bins) at flow time ``t``."""
    every = States(*(together(parts) for parts in zip(*((s.memory, s.keys, s.padding) for s in states))))
    return list(models.orchestration.align(every, together(mel), t))
