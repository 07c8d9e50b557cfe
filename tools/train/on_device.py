"""Streams and scenes in a GPU's memory: batches are gathered there by their places, and the host waits for nothing."""
from __future__ import annotations

import numpy as np
import torch

from streamchar_rt.orchestrator.condition import alignment_features

from .batches import AHEAD, PAST, StreamSampler
from .scenes import SceneBatch, Scenes
from .streams import CHUNK, Streams


def upload(array: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on ``device``; from pinned memory, since one from ordinary memory waits for all that is under way."""
    tensor = torch.as_tensor(array)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceStreams:
    """The arrays of ``Streams``, once for all samplers; 180 bytes a half-frame."""

    def __init__(self, streams: Streams, device: torch.device):
        put = lambda x: torch.tensor(np.asarray(x), device=device)
        self.streams, self.device = streams, device
        self.mel, self.place = put(streams.mel), put(streams.place.astype(np.int64))
        self.unit, self.stress, self.word_start, self.elapsed = map(
            put, (streams.unit, streams.stress, streams.word_start, streams.elapsed))


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
