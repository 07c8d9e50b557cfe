"""Train the orchestrator of the ablation without a pointer: the turn's whole text stands in its window.

    python -m tools.train.whole_text --streams DIR --init ORCHESTRATOR --out DIR --minutes 30

The window begins with the turn and does not move, so nothing but the history's sound says what has been spoken. All
else is as in ``tools.train.orchestrator``, from whose weights it may start.
"""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.orchestrator.model import Orchestrator, OrchestratorConfig, TranscriptWindow
from streamchar_rt.orchestrator.units import PAD

from .batches import OrchestratorBatch, StreamSampler
from .loop import Loop, add_arguments
from .monolithic import turn_of
from .orchestrator import flow_times, losses
from .streams import Streams

WINDOW = 192         # units: more than a clip of ten seconds has


def whole_config(config: OrchestratorConfig = OrchestratorConfig()) -> OrchestratorConfig:
    return replace(config, window=WINDOW, window_before=0)


class WholeTextSampler(StreamSampler):
    """Its batches' windows begin with the first unit of the turn, wherever the chunk is."""

    def orchestrator(self, rows: np.ndarray, config: OrchestratorConfig,
                     strays: np.ndarray | int = 0) -> OrchestratorBatch:
        s, count = self.streams, len(rows)
        first = np.array([turn_of(s, int(at), int(s.place[at - 1]), int(last))[0] for at, last in rows[:, [0, 3]]])
        first = np.minimum(first, rows[:, 3])                # nothing new has been pushed: the END that is spoken
        index = first[:, None] + np.arange(config.window)
        present = index <= rows[:, 3:4]
        safe = np.minimum(index, len(s.unit) - 1)
        take = lambda a, none: torch.from_numpy(np.where(present, a[safe], none).astype(np.int64))
        at = rows[:, :1] + np.arange(config.slots + config.lookahead)
        place = np.minimum(s.place[at], rows[:, 3:4]) - first[:, None]
        fraction = np.where(s.place[at] > rows[:, 3:4], 1.0, s.fraction[at].astype(np.float32))
        visible = (place >= 0) & (place < config.window)
        history = self.mel(rows, -2 * config.history_tokens, 2 * config.history_tokens)
        return OrchestratorBatch(
            TranscriptWindow(take(s.unit, PAD), take(s.stress, 0), take(s.word_start, 0)),
            history.reshape(count, config.history_tokens, -1), torch.from_numpy(rows[:, 1].copy()),
            self.mel(rows, 0, config.slots), torch.from_numpy(np.where(visible, place, -100)),
            torch.from_numpy((place + fraction).astype(np.float32)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=30, lr=1e-3, batch=32)
    parser.add_argument("--streams", type=Path, required=True)
    args = parser.parse_args()
    loop = Loop(Orchestrator(whole_config()), args)
    streams = Streams.load(args.streams)
    train = WholeTextSampler(streams, seed=args.seed + loop.iteration)
    test = WholeTextSampler(streams, test=True)
    fixed = test.rows(256)

    def step(_: int) -> dict[str, torch.Tensor]:
        batch = train.orchestrator(train.rows(args.batch), loop.model.config)
        return losses(loop.model, batch, flow_times(args.batch, loop.device), loop.autocast())

    def evaluate() -> dict[str, float]:
        batch = test.orchestrator(fixed, loop.model.config)
        values = {t: losses(loop.model, batch, torch.full((len(fixed),), t), loop.autocast()) for t in (0.0, 1.0)}
        return {f"accuracy_t{t:g}": float(v["accuracy"]) for t, v in values.items()}

    loop.run(step, evaluate, evaluate_seconds=120)


if __name__ == "__main__":
    main()
