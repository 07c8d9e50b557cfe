"""Training batches from streams: transcript windows, histories, alignments and mel chunks."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from streamchar_rt.orchestrator.condition import alignment_features
from streamchar_rt.orchestrator.model import OrchestratorConfig, TranscriptWindow
from streamchar_rt.orchestrator.units import END, PAD

from .streams import CHUNK, Streams

PAST, AHEAD = 8, 8               # half-frames of alignment around a chunk


@dataclass
class OrchestratorBatch:
    window: TranscriptWindow
    history: torch.Tensor        # (B, H, 160)
    voice: torch.Tensor          # (B,)
    mel: torch.Tensor            # (B, 32, 80) clean
    place: torch.Tensor          # (B, 40) index into the window, -100 where out of sight
    position: torch.Tensor       # (B, 40) place plus the fraction spoken


class StreamSampler:
    """Draws random chunks. ``held_out`` streams at the end are kept for evaluation."""

    def __init__(self, streams: Streams, *, held_out: int = 40, test: bool = False, seed: int = 0):
        self.streams = streams
        last = streams.chunks[:, 4].max()
        keep = (streams.chunks[:, 4] > last - held_out) == test
        self.chunks = streams.chunks[keep]
        self.rng = np.random.default_rng(seed)
        self._runs: dict[int, np.ndarray] = {}               # first chunks of runs, by length
        # Chunks of pure silence are common and easy: see them less often.
        speaks = np.array([(streams.unit[streams.place[at: at + CHUNK]] != END).any() for at in self.chunks[:, 0]])
        self.speaks, weight = speaks, np.where(speaks, 1.0, 0.25)
        self.weight = np.cumsum(weight / weight.sum())

    def rows(self, count: int) -> np.ndarray:
        return self.chunks[np.minimum(np.searchsorted(self.weight, self.rng.random(count)), len(self.chunks) - 1)]

    def runs(self, count: int, length: int) -> np.ndarray:
        """``length`` chunks of a stream that follow each other, (count, length, 6); at least one of them speaks."""
        if length not in self._runs:
            spoken = np.concatenate([[0], np.cumsum(self.speaks)])
            first = np.arange(max(0, len(self.chunks) - length + 1))
            last = first + length - 1
            good = (self.chunks[first, 4] == self.chunks[last, 4]) & (spoken[last + 1] > spoken[first])
            self._runs[length] = np.flatnonzero(good)
        if not len(self._runs[length]):
            raise ValueError(f"no stream has {length} chunks in a row with speech")
        return self.chunks[self.rng.choice(self._runs[length], count)[:, None] + np.arange(length)]

    def put(self, array: np.ndarray) -> np.ndarray:
        """Places or rows where their chunks are looked up: here as they are."""
        return array

    def mel(self, rows: np.ndarray, begin: int, count: int) -> torch.Tensor:
        """Normalised mel float32 (B, count, 80) from ``begin`` half-frames after each chunk's first."""
        index = rows[:, :1] + begin + np.arange(count)
        return torch.from_numpy(self.streams.mel[index].astype(np.float32))

    def features(self, rows: np.ndarray) -> torch.Tensor:
        """True alignment features (B, PAST + CHUNK + AHEAD, F); units not pushed yet count as END."""
        s = self.streams
        index = rows[:, :1] - PAST + np.arange(PAST + CHUNK + AHEAD)
        place = np.minimum(s.place[index], rows[:, 3:4])
        hidden = s.place[index] > rows[:, 3:4]
        tensor = lambda a: torch.from_numpy(a.astype(np.int64))
        return alignment_features(tensor(s.unit[place]), tensor(s.stress[place]), tensor(s.word_start[place]),
                                  tensor(np.where(hidden, 15, s.elapsed[index])))

    def strays(self, count: int, share: float = 0.1) -> np.ndarray:
        """By how much pointers stand wrong, int64 (count,): a ``share`` of them by one unit."""
        return self.rng.choice([-1, 1], count) * (self.rng.random(count) < share)

    def orchestrator(self, rows: np.ndarray, config: OrchestratorConfig,
                     strays: np.ndarray | int = 0) -> OrchestratorBatch:
        """What the orchestrator sees before the chunks ``rows`` (B, 6), and is to say of them."""
        s, count = self.streams, len(rows)
        pointer = s.place[rows[:, 0] - 1].astype(np.int64)
        moved = np.clip(pointer + strays, rows[:, 2], rows[:, 3])
        index = moved[:, None] - config.window_before + np.arange(config.window)
        present = (index >= rows[:, 2:3]) & (index <= rows[:, 3:4])
        safe = np.clip(index, 0, len(s.unit) - 1)
        take = lambda a: torch.from_numpy(np.where(present, a[safe], 0).astype(np.int64))
        assert PAD == 0
        at = rows[:, :1] + np.arange(config.slots + config.lookahead)
        place = np.minimum(s.place[at], rows[:, 3:4]) - index[:, :1]
        fraction = np.where(s.place[at] > rows[:, 3:4], 1.0, s.fraction[at].astype(np.float32))
        visible = (place >= 0) & (place < config.window)
        history = self.mel(rows, -2 * config.history_tokens, 2 * config.history_tokens)
        return OrchestratorBatch(
            TranscriptWindow(take(s.unit), take(s.stress), take(s.word_start)),
            history.reshape(count, config.history_tokens, -1), torch.from_numpy(rows[:, 1].copy()),
            self.mel(rows, 0, config.slots), torch.from_numpy(np.where(visible, place, -100)),
            torch.from_numpy((place + fraction).astype(np.float32)))
