"""Streams and scenes in a GPU's memory: batches are gathered there by their places, and the host waits for nothing."""
from __future__ import annotations

import numpy as np
import torch

from streamchar_rt.orchestrator.condition import alignment_features
from streamchar_rt.orchestrator.model import OrchestratorConfig, TranscriptWindow

from .batches import AHEAD, PAST, OrchestratorBatch, StreamSampler
from .scenes import SceneBatch, Scenes
from .streams import CHUNK, Streams


def upload(array: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on ``device``; from pinned memory, since one from ordinary memory waits for all that is under way."""
    tensor = torch.as_tensor(array)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceStreams:
    """The arrays of ``Streams``, once for all samplers; 182 bytes a half-frame."""

    def __init__(self, streams: Streams, device: torch.device):
        put = lambda x: torch.tensor(np.asarray(x), device=device)
        self.streams, self.device = streams, device
        self.mel, self.place = put(streams.mel), put(streams.place.astype(np.int64))
        self.unit, self.stress, self.word_start, self.elapsed, self.fraction = map(
            put, (streams.unit, streams.stress, streams.word_start, streams.elapsed, streams.fraction))


class DeviceSampler(StreamSampler):
    """Draws the chunks that ``StreamSampler`` draws, and gathers what they hold on the device.

    Rows may be numpy arrays or tensors that are there already.
    """

    def __init__(self, data: DeviceStreams, **options):
        super().__init__(data.streams, **options)
        self.data, self.device = data, data.device

    def put(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        return upload(array, self.device)

    def mel(self, rows: np.ndarray | torch.Tensor, begin: int, count: int) -> torch.Tensor:
        return self.data.mel[self.put(rows)[:, :1] + torch.arange(begin, begin + count, device=self.device)].float()

    def features(self, rows: np.ndarray | torch.Tensor) -> torch.Tensor:
        data, rows = self.data, self.put(rows)
        index = rows[:, :1] + torch.arange(-PAST, CHUNK + AHEAD, device=self.device)
        place, last = data.place[index], rows[:, 3:4]
        seen, elapsed = torch.minimum(place, last), data.elapsed[index].long()
        return alignment_features(data.unit[seen].long(), data.stress[seen].long(), data.word_start[seen].long(),
                                  torch.where(place > last, 15, elapsed))

    def orchestrator(self, rows: np.ndarray | torch.Tensor, config: OrchestratorConfig,
                     strays: np.ndarray | torch.Tensor | int = 0) -> OrchestratorBatch:
        data, rows, count = self.data, self.put(rows), len(rows)
        along = lambda length: torch.arange(length, device=self.device)
        first, last = rows[:, 2], rows[:, 3]
        pointer = (data.place[rows[:, 0] - 1] + self.put(strays)).clamp(first, last)
        index = pointer[:, None] - config.window_before + along(config.window)
        present = (index >= first[:, None]) & (index <= last[:, None])
        safe = index.clamp(0, len(data.unit) - 1)
        take = lambda values: torch.where(present, values[safe].long(), 0)
        at = rows[:, :1] + along(config.slots + config.lookahead)
        there = data.place[at]
        place = torch.minimum(there, last[:, None]) - index[:, :1]
        fraction = torch.where(there > last[:, None], 1.0, data.fraction[at].float())
        visible = (place >= 0) & (place < config.window)
        history = self.mel(rows, -2 * config.history_tokens, 2 * config.history_tokens)
        return OrchestratorBatch(
            TranscriptWindow(take(data.unit), take(data.stress), take(data.word_start)),
            history.reshape(count, config.history_tokens, -1), rows[:, 1].clone(), self.mel(rows, 0, config.slots),
            torch.where(visible, place, -100), place + fraction)


class DeviceScenes(Scenes):
    """``Scenes`` whose latents are on the device, 56 KB a chunk."""

    def __init__(self, scenes: Scenes, device: torch.device):
        self.__dict__.update(scenes.__dict__)
        put = lambda x: torch.tensor(np.asarray(x), device=device)
        self.device = device
        self.there = {name: put(getattr(scenes, name)) for name in ("rows", "video", "reference", "emotion", "mode")}
        self.middle, self.spread = (put(x.reshape(-1, 1, 1)) for x in (scenes.mean, scenes.std))

    def gather(self, at: np.ndarray | torch.Tensor, sink: np.ndarray | torch.Tensor) -> SceneBatch:
        at, sink, there = upload(at, self.device), upload(sink, self.device), self.there
        video = lambda places: (there["video"][places].float() - self.middle) / self.spread
        return SceneBatch(there["rows"][at], video(at), video(at - 1), video(sink), there["rows"][sink, 0],
                          there["reference"][at].float(), there["emotion"][at].long(), there["mode"][at].long())
