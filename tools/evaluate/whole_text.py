"""The run time without its pointer: the whole text stands in the window, and the model alone says where it is."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from streamchar_rt.orchestrator.alignment import elapsed_in, monotonic_path
from streamchar_rt.orchestrator.condition import LONGEST
from streamchar_rt.orchestrator.units import END, PAD
from streamchar_rt.planner import Plan


class WholeTextPlan(Plan):
    """The window begins with the turn; a chunk begins where the model says, not where the last one ended.

    That place cannot lie before the last chunk's end, which the session's words and captions could not follow.
    """

    def __init__(self, state: Any, style: Any) -> None:
        super().__init__(state, style)
        config = state.models.orchestrator.config
        memory = _memory(state)
        self.first = memory["first"]
        self.rows = np.zeros((config.window, 3), np.int64)
        self.rows[:, 0] = PAD
        seen = memory["rows"][: config.window]
        self.rows[: len(seen)] = seen
        self.blocked = self.rows[:, 0] == PAD
        self.minimum = np.ones(config.window, np.int64)

    def follow(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        models, config = self.state.models, self.state.models.orchestrator.config
        masked = np.where(self.blocked, -np.inf, logits.numpy().astype(np.float64))
        probability = np.exp(masked - masked.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        median = int((np.cumsum(probability[0]) < 0.5).sum())
        floor = min(max(0, self.state.pointer - self.first), int((~self.blocked).sum()) - 1)
        at = max(median, floor)
        self.path = monotonic_path(masked, at, minimum=self.minimum, elapsed=1)
        self.confidence = float(probability[np.arange(len(self.path)), self.path][: config.slots].mean())
        before = self.state.elapsed + 1 if at == self.state.pointer - self.first else 0
        self.elapsed = np.minimum(elapsed_in(self.path, before, at), LONGEST)
        rows = np.concatenate([self.state.past, np.concatenate([self.rows[self.path], self.elapsed[:, None]], 1)])
        self.half_frames = rows
        return models.orchestration.conditions(*map(torch.from_numpy, (rows[None], np.array([self.style.voice]))))


def _memory(state: Any) -> dict[str, Any]:
    """The turn's first place and its units so far, which the stream itself forgets."""
    units = state.units
    memory = getattr(state, "whole_text", None)
    spoken = units.window(state.pointer, 1)[0]
    if memory is None or (spoken[0] == END and state.pointer >= memory["first"] + len(memory["rows"]) - 1
                          and units.stop - 1 > state.pointer):
        # A stream begins, or the turn is over and another one's text is there.
        memory = {"first": state.pointer + (units.stop - 1 > state.pointer), "rows": []}
        state.whole_text = memory
    known = memory["first"] + len(memory["rows"])
    memory["rows"] += [tuple(map(int, row)) for row in units.window(known, max(0, units.stop - known))]
    return memory
