"""Planning the rollouts of many streams at once on a GPU, without a look at values: ``rollout.Planner`` in tensors."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from streamchar_rt.orchestrator.condition import LONGEST, alignment_features
from streamchar_rt.orchestrator.model import Orchestrator, TranscriptWindow
from streamchar_rt.orchestrator.units import FIRST_PHONE, PAD
from streamchar_rt.planner import SHORTEST_PHONE
from streamchar_rt.resync import PHONE, checked_path_on_device

from .on_device import DeviceStreams, upload
from .streams import Streams


class DeviceTranscripts:
    """Several streams' progress through their transcripts, as ``rollout.Transcript`` has one's."""

    def __init__(self, data: DeviceStreams, rows: torch.Tensor, past: int):
        """As it truly is before the chunks ``rows`` (B, 6)."""
        at = rows[:, 0]
        self.data, self.first, self.last = data, rows[:, 2], rows[:, 3]
        self.pointer, self.elapsed = data.place[at - 1], data.elapsed[at - 1].long().clamp(max=LONGEST)
        index = at[:, None] + torch.arange(-past, 0, device=data.device)
        spent = data.elapsed[index].long().clamp(max=LONGEST)
        self.past = torch.cat([self._units(data.place[index]), spent[..., None]], -1)          # (B, past, 4)

    def _units(self, place: torch.Tensor) -> torch.Tensor:
        """Unit, stress and word start, int64 (..., 3)."""
        return torch.stack([table[place].long() for table in (self.data.unit, self.data.stress, self.data.word_start)], -1)

    def window(self, first: torch.Tensor, count: int) -> torch.Tensor:
        """Rows (B, count, 3) from the places ``first`` (B,); PAD where nothing is in sight."""
        index = first[:, None] + torch.arange(count, device=self.data.device)
        seen = (index >= self.first[:, None]) & (index <= self.last[:, None])
        rows = self._units(index.clamp(0, len(self.data.unit) - 1))
        assert PAD == 0
        return torch.where(seen[..., None], rows, 0)


@dataclass
class DevicePlans:
    """What the streams' chunks are to say, and when: ``planner.Plan`` for all of them."""
    transcripts: DeviceTranscripts
    first: torch.Tensor              # (B,) place of the window's first unit
    rows: torch.Tensor               # (B, W, 3)
    path: torch.Tensor | None = None           # (B, slots + lookahead) units of the window
    elapsed: torch.Tensor | None = None
    half_frames: torch.Tensor | None = None    # (B, past + slots + lookahead, 4)


class DevicePlanner:
    def __init__(self, orchestrator: Orchestrator, data: DeviceStreams):
        self.net, self.data = orchestrator.eval().requires_grad_(False).to(data.device), data

    def transcripts(self, streams: Streams, rows: np.ndarray, past: int) -> DeviceTranscripts:
        assert streams is self.data.streams
        return DeviceTranscripts(self.data, upload(np.ascontiguousarray(rows), self.data.device), past)

    def see(self, transcripts: DeviceTranscripts, last: np.ndarray) -> None:
        transcripts.last = torch.maximum(transcripts.last, upload(np.ascontiguousarray(last), self.data.device))

    def read(self, transcripts: DeviceTranscripts, history: torch.Tensor, voice: torch.Tensor):
        config = self.net.config
        first = transcripts.pointer - config.window_before
        plans = DevicePlans(transcripts, first, transcripts.window(first, config.window))
        tokens = history.reshape(len(history), config.history_tokens, -1)
        return plans, self.net.encode(TranscriptWindow(*plans.rows.unbind(-1)), tokens, voice, masked=True)

    def align(self, plans: DevicePlans, states, mel: torch.Tensor, t: float) -> torch.Tensor:
        logits, _ = self.net.align(states, mel, torch.full((1,), t, device=mel.device))
        before, transcripts = self.net.config.window_before, plans.transcripts
        unit = plans.rows[..., 0]
        # A unit before the pointer is context for the model, never a place to go.
        blocked = (unit == PAD) | (torch.arange(unit.shape[1], device=unit.device) < before)
        shortest = lambda phone: torch.where(unit >= FIRST_PHONE, phone, 1)
        plans.path, spent, _ = checked_path_on_device(
            logits.double().masked_fill(blocked[:, None], float("-inf")), before,
            minimum=shortest(SHORTEST_PHONE), steady=shortest(PHONE), elapsed=transcripts.elapsed + 1)
        plans.elapsed = spent.clamp(max=LONGEST)
        said = plans.rows.gather(1, plans.path[..., None].expand(-1, -1, 3))
        plans.half_frames = torch.cat([transcripts.past, torch.cat([said, plans.elapsed[..., None]], -1)], 1)
        return alignment_features(*plans.half_frames.unbind(-1))

    def advance(self, transcripts: DeviceTranscripts, plans: DevicePlans) -> None:
        slots = self.net.config.slots
        transcripts.elapsed = plans.elapsed[:, slots - 1]
        transcripts.past = plans.half_frames[:, slots: slots + transcripts.past.shape[1]]
        transcripts.pointer = plans.first + plans.path[:, slots - 1]
