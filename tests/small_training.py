"""Small nets and streams for tests of training."""
import numpy as np
import torch

from streamchar_rt.denoiser.dit import DiTConfig
from streamchar_rt.denoiser.layout import Layout
from streamchar_rt.orchestrator.condition import ConditionConfig
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS
from tools.train.streams import CHUNK, HEAD, TAIL, Streams

LAYOUT = Layout(grid=2, head_dim=16, time_pairs=4, space_pairs=2)
CONDITION = ConditionConfig(width=16, depth=1, output=32)
DIT = DiTConfig(width=32, depth=2, heads=2, feed_forward=48, reference_channels=8, layout=LAYOUT)


def small_streams(rng: np.random.Generator) -> Streams:
    """Sixty short streams whose mel is a function of the unit alone, so that there is something to learn."""
    spectra = rng.normal(0, 1, (NUM_UNITS, 80))
    parts, rows, frames, units = {k: [] for k in ("mel", "place", "elapsed", "fraction", "unit")}, [], 0, 0
    for number in range(60):
        length = HEAD + 3 * CHUNK + TAIL
        lengths = [HEAD, *rng.integers(2, 9, 40)]
        unit = np.array([END, *rng.integers(FIRST_PHONE, FIRST_PHONE + 5, 40)])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        place = np.searchsorted(starts, np.arange(length), side="right") - 1
        parts["mel"].append(spectra[unit[place]].astype(np.float16))
        parts["place"].append((place + units).astype(np.int32))
        parts["elapsed"].append(np.minimum(np.arange(length) - starts[place], 255).astype(np.uint8))
        parts["fraction"].append(np.zeros(length, np.float16))
        parts["unit"].append(unit.astype(np.uint8))
        rows += [(frames + HEAD + k * CHUNK, number % 4, units, units + 40, number, k) for k in range(3)]
        frames, units = frames + length, units + len(unit)
    arrays = {k: np.concatenate(v) for k, v in parts.items()}
    zeros = np.zeros(units, np.uint8)
    return Streams(**arrays, stress=zeros, word_start=zeros, chunks=np.array(rows))


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Layers that begin as zero are made to matter."""
    for p in net.parameters():
        if not p.abs().any():
            torch.nn.init.normal_(p, std=0.05)
    return net
