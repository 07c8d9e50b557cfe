"""Train the learned judge of lip sync (``tools.evaluate.sync_expert``) on studio drawings of random identities.

    python -m tools.train.sync_expert --speech SPEECH --out DIR --minutes 10

``--speech``: a corpus of ``tools.studio.speech`` that nothing generative was trained with. Each utterance is acted by a
character of its own, drawn once, and looked at by the mouth reader's convolutions, in VIEWS disturbed ways; training
then cuts clips from that pool, which stays in the folder. In a clip the window of a sound belongs to the picture's
window of the same time, and to none of those up to 15 frames before or after: a contrast over offsets alone, so that
neither voice nor face can tell. Writes the weights in use to tools/evaluate.
"""
from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from streamchar_rt.orchestrator.units import UNIT_NAMES, is_phone
from tools.evaluate.mouth_reader import INPUT, LEFT, TOP, _MARGIN, disturb, load_reader, over_grey
from tools.evaluate.phone_judge import centred, log_mel
from tools.evaluate.sync_expert import FPS, MEL_PER_FRAME, PATH, RATE, REACH, SPAN, SyncExpert, save_expert
from tools.studio.corpus import Corpus, Utterance, load_corpus

from .loop import Loop, add_arguments
from .pictures import FIRST_TRAIN_IDENTITY

FRAMES = SPAN + 31           # of a training clip: as many windows as there are offsets, and one more
VIEWS = 2
_KEPT = INPUT + 2 * _MARGIN  # px: a margin for shifts


@dataclass
class Scene:
    views: np.ndarray        # float16 (VIEWS, T, 1728) of ``SyncExpert.eye``
    mel: np.ndarray          # float16 (4 * T, 64) centred


def segments_of(utterance: Utterance) -> list[tuple[str, float, float, int]]:
    """(phone, begin s, end s, stress), pauses as "pau"."""
    name = lambda unit: UNIT_NAMES[unit] if is_phone(unit) else "pau"
    return [(name(int(u)), float(b), float(e), int(s))
            for u, b, e, s in zip(utterance.unit, utterance.begin, utterance.end, utterance.stress)]


@torch.no_grad()
def draw(expert: SyncExpert, utterance: Utterance, rng: np.random.Generator) -> Scene | None:
    """The utterance acted by a random character; None where it is too short. ``expert``: in evaluation mode."""
    from tools.studio.behaviour import EMOTIONS, perform
    from tools.studio.character import Identity, Renderer

    count = min(len(utterance.samples) * FPS // RATE, 5 * FPS)
    if count < FRAMES:
        return None
    renderer = Renderer(Identity.from_seed(int(rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31))), 128)
    track = perform(segments_of(utterance), count, emotion=EMOTIONS[int(rng.integers(len(EMOTIONS)))],
                    seed=int(rng.integers(2 ** 31)))
    pixels = np.stack([renderer.draw(p, premultiplied=True) for p in track])
    top, left = TOP // 2 - _MARGIN, LEFT // 2 - _MARGIN
    crops = over_grey(pixels[:, top: top + _KEPT, left: left + _KEPT], premultiplied=True)
    sound = torch.from_numpy(utterance.samples[: count * RATE // FPS].astype(np.float32) / 32768)[None]
    mel = centred(log_mel(sound), torch.tensor([count * MEL_PER_FRAME]))[0]
    views = torch.stack([expert.eye(disturb(crops) * 2 - 1) for _ in range(VIEWS)])
    return Scene(views.numpy().astype(np.float16), mel.numpy().astype(np.float16))


def drawn(folder: Path, expert: SyncExpert, corpus: Corpus, count: int, seed: int) -> list[Scene]:
    """Scenes of ``count`` utterances, kept in ``folder`` for the next time."""
    path, begun = folder / "scenes.npz", time.monotonic()
    if not path.exists():
        rng, expert = np.random.default_rng(seed), expert.eval()
        scenes = []
        for n, i in enumerate(rng.permutation(len(corpus))[:count], 1):
            if (scene := draw(expert, corpus[int(i)], rng)) is not None:
                scenes.append(scene)
            if n % 20 == 0:
                left = (time.monotonic() - begun) / n * (min(count, len(corpus)) - n)
                print(f"{n} utterances drawn, {left:.0f} s left", flush=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, lengths=[s.views.shape[1] for s in scenes], mel=np.concatenate([s.mel for s in scenes]),
                 views=np.concatenate([s.views for s in scenes], 1))
        part.rename(path)
    with np.load(path) as data:
        ends = np.cumsum(data["lengths"])[:-1]
        return [Scene(v, m) for v, m in zip(np.split(data["views"], ends, 1),
                                            np.split(data["mel"], ends * MEL_PER_FRAME))]


def cut(scenes: list[Scene], count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random clips: views float32 (count, FRAMES, 1728) and mels (count, 4 * FRAMES, 64).

    A fifth of a view's numbers is left out and the mels are noisy: there are few scenes to learn by heart.
    """
    views, mels = [], []
    for i in rng.integers(len(scenes), size=count):
        scene = scenes[i]
        at = int(rng.integers(scene.views.shape[1] - FRAMES + 1))
        views.append(scene.views[rng.integers(len(scene.views)), at: at + FRAMES].astype(np.float32))
        mels.append(scene.mel[at * MEL_PER_FRAME: (at + FRAMES) * MEL_PER_FRAME].astype(np.float32))
    mel = torch.from_numpy(np.stack(mels))
    mel = mel + 0.5 * torch.rand(count, 1, 1) * torch.randn_like(mel)
    return F.dropout(torch.from_numpy(np.stack(views)), 0.2), mel


def contrast(expert: SyncExpert, views: torch.Tensor, mel: torch.Tensor, autocast) -> dict[str, torch.Tensor]:
    """Cross-entropy of which sound belongs to a picture, and the other way round, within a clip and REACH."""
    with autocast:
        v, a = expert.windows_of_picture(expert.read(views)), expert.windows_of_sound(mel)
    logits = v @ a.transpose(1, 2) * expert.sharpness.exp().clamp(max=30)
    place = torch.arange(logits.shape[1])
    far = (place[:, None] - place).abs() > REACH
    logits = logits.masked_fill(far, float("-inf"))
    target = place.expand(len(logits), -1)
    loss = F.cross_entropy(logits.transpose(1, 2), target) + F.cross_entropy(logits, target)
    near = (logits.argmax(-1) - target).abs() <= 1
    return {"loss": loss / 2, "within_one": near.float().mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=10, lr=2e-3, batch=16)
    parser.add_argument("--speech", type=Path, required=True, help="folder of tools.studio.speech")
    parser.add_argument("--scenes", type=int, default=240, help="utterances drawn")
    parser.add_argument("--weights", type=Path, default=PATH, help="file of the weights in use")
    args = parser.parse_args()
    args.device = "cpu"
    expert = SyncExpert.beside(load_reader())
    loop = Loop(expert, args, decay=0.998, warmup=100)
    scenes = drawn(args.out, expert, load_corpus(args.speech), args.scenes, args.seed)
    test, train = scenes[: len(scenes) // 12], scenes[len(scenes) // 12:]
    print(f"{sum(p.numel() for p in expert.parameters())} parameters; {len(scenes)} scenes, "
          f"{sum(s.views.shape[1] for s in scenes)} drawings", flush=True)
    rng = np.random.default_rng(args.seed + 1 + loop.iteration)

    def evaluate() -> dict[str, float]:
        torch.manual_seed(7)
        values = [contrast(expert, *cut(test, 16, np.random.default_rng(i)), loop.autocast()) for i in range(6)]
        return {name: float(torch.stack([v[name] for v in values]).mean()) for name in values[0]}

    loop.run(lambda _: contrast(expert, *cut(train, args.batch, rng), loop.autocast()), evaluate, evaluate_seconds=90)
    expert.load_state_dict({k: v.to(expert.state_dict()[k].dtype) for k, v in loop.averaged().items()})
    save_expert(expert.eval(), args.weights)
    print(f"{args.weights}: {args.weights.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
