"""The learned judge of lip sync: how well a mouth and a sound belong together, and at which offset.

    python -m tools.evaluate.sync_expert        # how often it finds the offset of clips that it has not seen

After SyncNet (Chung and Zisserman 2016): windows of nine frames (0.36 s) of the lower face, and of a log-mel as long,
become unit vectors that are near each other where they belong together. What looks at a single frame are the mouth
reader's convolutions as they are; all else is learned here. ``Sync`` has what is usually reported of it
(LSE-D, LSE-C of Prajwal et al. 2020): the distance at the best offset, and the confidence, by how much the median of
all offsets is further. Unit vectors are 0 to 2 apart, so the figures do not compare with the original network's.
``tools.train.sync_expert`` trains it, on studio drawings with true speech and nothing that a model has generated.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tools.evaluate.mouth_reader import INPUT, MouthReader, lower_face
from tools.evaluate.phone_judge import BANDS, centred, log_mel

PATH = Path(__file__).with_name("sync_expert.safetensors")
FPS, RATE = 25, 16_000
REACH = 15           # frames looked at either side
SPAN = 9             # frames a window holds
VIEW = 48 * (INPUT // 8) ** 2    # numbers the mouth reader's convolutions make of a frame
EYE = 48             # numbers a frame becomes before windows are made of them
MEL_PER_FRAME = 4


class Sync(NamedTuple):
    offset: int  # frames; + is a late picture
    distance: float  # at that offset
    confidence: float  # the median of all offsets' distances less that


class SyncExpert(nn.Module):
    def __init__(self, width: int = 96, size: int = 64) -> None:
        super().__init__()
        layer = lambda i, o, k: (nn.Conv2d(i, o, k, 2, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.eye = nn.Sequential(*layer(3, 16, 5), *layer(16, 32, 3), *layer(32, 48, 3), nn.Flatten())
        self.read = nn.Linear(VIEW, EYE)
        step = lambda i, o, k, **more: (nn.Conv1d(i, o, k, bias=False, **more), nn.BatchNorm1d(o), nn.ReLU())
        halve = dict(stride=2, padding=1)
        self.picture = nn.Sequential(*step(EYE, width, 5), *step(width, width, 5), nn.Conv1d(width, size, 1))
        self.sound = nn.Sequential(*step(BANDS, width, 4, **halve), *step(width, width, 4, **halve),
                                   *step(width, width, 5), *step(width, width, 5), nn.Conv1d(width, size, 1))
        self.sharpness = nn.Parameter(torch.tensor(2.0))     # log of the softmax's scale; training only

    @classmethod
    def beside(cls, reader: MouthReader) -> "SyncExpert":
        """An untrained one with the reader's convolutions, which training leaves alone."""
        expert = cls()
        expert.eye.load_state_dict(reader.net[: len(expert.eye)].state_dict())
        expert.eye.requires_grad_(False)
        return expert

    def windows_of_picture(self, seen: torch.Tensor) -> torch.Tensor:
        """What ``see`` made of frames, (B, T, 48), to unit vectors (B, T - 8, 64)."""
        return F.normalize(self.picture(seen.transpose(1, 2)).float(), dim=1).transpose(1, 2)

    def windows_of_sound(self, mel: torch.Tensor) -> torch.Tensor:
        """Centred log-mel (B, 4 * T, 64) to unit vectors (B, T - 8, 64)."""
        return F.normalize(self.sound(mel.transpose(1, 2)).float(), dim=1).transpose(1, 2)

    @torch.inference_mode()
    def see(self, frames: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
        """Pictures uint8 (T, 256, 256, 4) as what ``distances`` takes, float32 (T, 48)."""
        self.eval()
        crops = lower_face(frames, premultiplied=premultiplied)
        return torch.cat([self.read(self.eye(part * 2 - 1)) for part in crops.split(64)]).numpy()

    @torch.inference_mode()
    def distances(self, seen: np.ndarray, samples: np.ndarray) -> list[float]:
        """Mean distance of pictures and sound for pictures that are -15 to 15 frames late.

        Args:
            seen: (T, 48) of ``see``.
            samples: float (n,) in [-1, 1] at 16 kHz that begin with the first picture; silence follows them.

        A clip of less than 1.6 s is continued by its last picture and silence. Raises ValueError without a picture.
        """
        if not len(seen):
            raise ValueError("the sync expert needs a picture at least")
        self.eval()
        seen = np.pad(seen, ((0, max(0, SPAN + 2 * REACH + 1 - len(seen))), (0, 0)), "edge")
        count = len(seen) * RATE // FPS
        sound = np.zeros(count, np.float32)
        part = np.asarray(samples, np.float32)[:count]
        sound[: len(part)] = part
        mel = log_mel(torch.from_numpy(sound)[None])
        a = self.windows_of_sound(centred(mel, torch.tensor([mel.shape[1]])))[0]
        v = self.windows_of_picture(torch.from_numpy(np.asarray(seen, np.float32))[None])[0]
        # The same sound for every offset, so that none has an easier part of the clip.
        middle = a[REACH: len(a) - REACH]
        return [float((v[REACH + k: REACH + k + len(middle)] - middle).norm(dim=-1).mean())
                for k in range(-REACH, REACH + 1)]


def best_sync(curves: Sequence[Sequence[float]], weights: Sequence[float]) -> Sync:
    """One offset for all clips: where the mean of their ``distances``, weighted by length, is least."""
    curve = np.average(curves, axis=0, weights=weights)
    best = int(np.argmin(curve))
    return Sync(best - REACH, float(curve[best]), float(np.median(curve) - curve[best]))


def load_expert(path: Path = PATH) -> SyncExpert:
    """The trained judge, in evaluation mode. Raises FileNotFoundError where it has not been trained."""
    from safetensors.torch import load_file

    expert = SyncExpert()
    expert.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    return expert.eval()


def save_expert(expert: SyncExpert, path: Path) -> None:
    """In float16, as small as it is."""
    from safetensors.torch import save

    path.write_bytes(save({k: v.half().contiguous() for k, v in expert.state_dict().items() if v.is_floating_point()}))


# ------------------------------------------------------------------ how good it is
def held_out_quality(expert: SyncExpert, clips: int = 40, seconds: float = 3.0, seed: int = 1) -> dict[str, float]:
    """Held-out identities say held-out sentences, and the sound is moved by up to 10 frames, drawn at full size.

    Also one voice's picture with another sentence's sound, which belong together nowhere.
    """
    from tools.studio.behaviour import EMOTIONS, perform
    from tools.studio.character import Identity, Renderer
    from tools.studio.sentences import evaluation_sentences
    from tools.studio.speech import VOICE_NAMES, synthesize
    from tools.train.pictures import HELD_OUT

    rng, frames = np.random.default_rng(seed), round(seconds * FPS)
    errors, confidence, distance, strange = [], [], [], []
    before: np.ndarray | None = None
    for i in range(clips):
        speech = synthesize(evaluation_sentences()[i], VOICE_NAMES[i % len(VOICE_NAMES)])
        samples = np.zeros(frames * RATE // FPS, np.float32)
        part = speech.samples[: len(samples)].astype(np.float32) / 32768
        samples[: len(part)] = part
        renderer = Renderer(Identity.from_seed(HELD_OUT[i]))
        track = perform([(p.name, p.begin, p.end, p.stress) for p in speech.phones], frames,
                        emotion=EMOTIONS[i % len(EMOTIONS)], seed=i)
        seen = expert.see(np.stack([renderer.draw(p, premultiplied=True) for p in track]), premultiplied=True)
        late = int(rng.integers(-10, 11))                    # frames that the picture is late
        found = best_sync([expert.distances(seen, np.roll(samples, -late * RATE // FPS))], [1])
        errors.append(abs(found.offset - late))
        confidence.append(found.confidence)
        distance.append(found.distance)
        if before is not None:
            strange.append(best_sync([expert.distances(seen, before)], [1]).confidence)
        before = samples
    share = lambda limit: float(np.mean(np.array(errors) <= limit))
    return {"exact offset, share of clips": share(0), "within one frame": share(1),
            "distance": float(np.mean(distance)), "confidence": float(np.mean(confidence)),
            "confidence with another sentence's sound": float(np.mean(strange))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.sync_expert",
                                     description="How often the sync expert finds the offset of unseen clips.")
    parser.add_argument("--weights", type=Path, default=PATH)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    expert = load_expert(args.weights)
    print(f"{sum(p.numel() for p in expert.parameters())} parameters, {args.weights.stat().st_size / 1024:.0f} KiB")
    for name, value in held_out_quality(expert, args.clips, args.seconds).items():
        print(f"held-out {name}: {value:.3f}")


if __name__ == "__main__":
    main()
