"""What the codecs cost, before any model generates anything.

    python -m tools.evaluate.codec --bundle mini -o sheet.png      # video codec on identities it has not seen
    python -m tools.evaluate.codec --codec CHECKPOINT_DIR
    python -m tools.evaluate.codec --bundle mini --vocoder         # recogniser's WER on true mels

Weights are rounded to float16 first, as the bundle stores them.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from streamchar_rt.codecs.packed_video import PackedVideoDecoder
from streamchar_rt.codecs.video import FRAMES, VideoDecoder, VideoEncoder
from streamchar_rt.codecs.vocoder import Vocoder
from streamchar_rt.pipeline import Models

from tools.train.shipped import ENCODER_FILE, WEIGHTS_DIGEST


# ------------------------------------------------------------------ measures
def psnr(estimate: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, peak 1; pictures (..., 3, H, W), mask (..., 1, H, W). NaN where it is empty."""
    mask = mask.expand_as(truth)
    count = int(mask.sum())
    if not count:
        return float("nan")
    error = float(((estimate - truth).double().square() * mask).sum()) / count
    return -10 * float(np.log10(max(error, 1e-12)))


def alpha_iou(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    """Intersection over union of where alpha is above a half; two empty pictures agree."""
    a, b = estimate > 0.5, truth > 0.5
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def temporal_jumps(estimate: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """How much the error changes from frame to frame: (at latents' joins, inside them).

    RGBA (T, 4, H, W); the mean absolute change of ``estimate - truth`` where the character is, in 1/255. A
    movement that is reproduced counts for nothing.
    """
    error = estimate - truth
    inside = ((truth[1:, 3:] > 0.5) & (truth[:-1, 3:] > 0.5)).float()
    change = ((error[1:, :3] - error[:-1, :3]).abs() * inside).sum((1, 2, 3)) / (3 * inside.sum((1, 2, 3))).clamp(min=1)
    join = torch.arange(1, len(error)) % FRAMES == 0
    return 255 * float(change[join].mean()), 255 * float(change[~join].mean())


def changes(frames: torch.Tensor) -> tuple[float, float]:
    """How much pictures change from frame to frame: (at latents' joins, inside them). Premultiplied RGBA (T, 4, H, W);
    mean absolute change over mid grey in 1/255."""
    change = (frames[:, :3] - 0.5 * frames[:, 3:]).diff(dim=0).abs().mean((1, 2, 3))
    join = torch.arange(1, len(frames)) % FRAMES == 0
    return 255 * float(change[join].mean()), 255 * float(change[~join].mean())


# ------------------------------------------------------------------ the video codec
class VideoNets(NamedTuple):
    encoder: nn.Module
    reference: nn.Module
    decoder: nn.Module | PackedFrames

    @torch.inference_mode()
    def roundtrip(self, frames: torch.Tensor, poses: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Frames (T, 4, H, W) of a clip, their poses (T, P) and the reference (4, H, W) to decoded frames, premultiplied,
        in [0, 1]."""
        groups = frames.reshape(-1, FRAMES, *frames.shape[1:])
        latents = self.encoder(groups, poses.reshape(len(groups), FRAMES, -1), picture.expand(len(groups), -1, -1, -1)).float()
        before = torch.cat([latents[:1], latents[:-1]])
        features = self.reference(picture[None])
        decoded = [self.decoder(z[None], p[None], picture[None], features)[0][0] for z, p in zip(latents, before)]
        return torch.cat(decoded).clamp(0, 1)


class PackedFrames:
    """The runtime's int8 decoder, in the place of a ``VideoDecoder``."""

    def __init__(self, decoder: VideoDecoder) -> None:
        self.draw = PackedVideoDecoder(decoder)

    def __call__(self, latents: torch.Tensor, *rest: Any) -> tuple[torch.Tensor]:
        straight = self.draw(latents, *rest).permute(0, 3, 1, 2).float() / 255
        frames = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1)
        return (frames.unflatten(0, (len(latents), FRAMES)),)


@dataclass
class Sample:
    """One clip's truth and estimate, float32 (T, 4, H, W) premultiplied, and the boxes of its parts."""

    truth: torch.Tensor
    estimate: torch.Tensor
    boxes: list[dict[str, tuple[float, float, float, float]]]


def performance(identity: int, index: int, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list]:
    """A studio performance: frames (T, 4, H, W), poses (T, P), the rest pose's picture (4, H, W), boxes of each frame."""
    from tools.evaluate.mouth_reader import random_segments
    from tools.studio.behaviour import EMOTIONS, perform
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import REST
    from tools.train.pictures import to_float

    rng = np.random.default_rng(identity)
    track = perform(random_segments(rng, frames / 25), frames, emotion=EMOTIONS[index % len(EMOTIONS)], seed=identity)
    renderer = Renderer(Identity.from_seed(identity))
    pixels = np.stack([renderer.draw(p, premultiplied=True) for p in (REST, *track)])
    pictures = to_float(torch.from_numpy(pixels))
    return pictures[1:], torch.from_numpy(track), pictures[0], [renderer.boxes(p) for p in track]


def part_masks(sample: Sample) -> dict[str, torch.Tensor]:
    """Boolean (T, 1, H, W) of the character, its mouth's box and its eyes' boxes, inside the character."""
    body = sample.truth[:, 3:] > 0.5
    masks = {"character": body, "mouth": torch.zeros_like(body), "eyes": torch.zeros_like(body)}
    for t, boxes in enumerate(sample.boxes):
        for name, (x0, y0, x1, y1) in boxes.items():
            masks["mouth" if name == "mouth" else "eyes"][t, :, int(y0): int(y1) + 1, int(x0): int(x1) + 1] = True
    return {name: mask & body for name, mask in masks.items()}


class Totals:
    """Collects clips; ``report()`` gives PSNRs (mean over frames, and pooled over pixels), IoU, jumps of the error at
    latents' joins, and how much more the pictures change there than inside latents, decoded and true."""

    def __init__(self) -> None:
        self.frames: dict[str, list[float]] = {"character": [], "mouth": [], "eyes": [], "iou": []}
        self.error, self.count = 0.0, 0
        self.jumps: list[tuple[float, float]] = []
        self.changes: list[tuple[float, float]] = []
        self.true_changes: list[tuple[float, float]] = []
        self.clips: list[float] = []

    def add(self, sample: Sample) -> float:
        masks = part_masks(sample)
        for t in range(len(sample.truth)):
            for name, mask in masks.items():
                self.frames[name].append(psnr(sample.estimate[t, :3], sample.truth[t, :3], mask[t]))
            self.frames["iou"].append(alpha_iou(sample.estimate[t, 3], sample.truth[t, 3]))
        error = (sample.estimate - sample.truth)[:, :3].double().square() * masks["character"]
        self.error += float(error.sum())
        self.count += 3 * int(masks["character"].sum())
        self.jumps.append(temporal_jumps(sample.estimate, sample.truth))
        self.changes.append(changes(sample.estimate))
        self.true_changes.append(changes(sample.truth))
        self.clips.append(float(np.mean(self.frames["character"][-len(sample.truth):])))
        return self.clips[-1]

    def report(self) -> dict[str, Any]:
        join, inside = np.mean(self.jumps, 0)
        ratio = lambda pairs: float(np.divide(*np.mean(pairs, 0)))
        mean = {name: float(np.nanmean(values)) for name, values in self.frames.items()}
        return {"psnr": mean["character"], "psnr_pooled": -10 * float(np.log10(max(self.error / self.count, 1e-12))),
                "psnr_mouth": mean["mouth"], "psnr_eyes": mean["eyes"], "alpha_iou": mean["iou"],
                "worst_identity_psnr": min(self.clips), "jump_at_joins": float(join), "jump_inside": float(inside),
                "jump_ratio": float(join / max(inside, 1e-9)), "change_ratio": ratio(self.changes),
                "true_change_ratio": ratio(self.true_changes), "identities": len(self.clips),
                "frames": len(self.frames["iou"])}


def contact_sheet(samples: Sequence[Sample], path: Path) -> None:
    """One column a clip: truth, decoded, four times the error, over grey."""
    from PIL import Image

    columns = []
    for sample in samples:
        t = len(sample.truth) // 2
        over = lambda x: x[:3] + (1 - x[3:]) * 0.75
        truth, estimate = over(sample.truth[t]), over(sample.estimate[t])
        columns.append(torch.cat([truth, estimate, (4 * (estimate - truth)).abs()], 1))
    sheet = (torch.cat(columns, 2).clamp(0, 1) * 255 + 0.5).byte().movedim(0, -1).numpy()
    Image.fromarray(sheet).save(path)


# ------------------------------------------------------------------ where the networks come from
def half(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half().float() if v.is_floating_point() else v for k, v in weights.items()}


def open_models(bundle: str) -> tuple[Models, str]:
    """A bundle's networks, and the digest that its video encoder's file must name."""
    from streamchar_rt.bundle import WEIGHTS, open_bundle

    opened = open_bundle(bundle)
    opened.verify()
    return Models.from_parts(opened.manifest, opened.tensors()), opened.manifest["files"][WEIGHTS]["sha256"]


def open_video(bundle: str, encoder_file: Path) -> VideoNets:
    from safetensors import safe_open

    models, digest = open_models(bundle)
    with safe_open(encoder_file, "pt") as file:
        if (file.metadata() or {}).get(WEIGHTS_DIGEST) != digest:
            raise SystemExit(f"{encoder_file} was not exported with the bundle {bundle}; give --encoder or --codec")
        weights = {name: file.get_tensor(name).float() for name in file.keys()}
    encoder = VideoEncoder(models.video_decoder.config)
    encoder.load_state_dict(weights)
    encoder.eval().to(memory_format=torch.channels_last)
    return VideoNets(encoder, models.reference_encoder, models.video_decoder)


def open_codec(folder: Path) -> VideoNets:
    from tools.train.loop import load_weights
    from tools.train.codec_networks import VideoCodec

    codec = VideoCodec()
    codec.load_state_dict(half(load_weights(folder)))
    codec.eval().to(memory_format=torch.channels_last)
    return VideoNets(codec.encoder, codec.reference, codec.decoder)


def open_vocoder(folder: Path) -> Vocoder:
    from tools.train.loop import load_weights

    vocoder = Vocoder()
    vocoder.load_state_dict(half(load_weights(folder)))
    return vocoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.codec", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", help="a shipped model's name or a bundle's folder")
    source.add_argument("--codec", type=Path, help="checkpoint folder of tools.train.video_codec (or .vocoder)")
    parser.add_argument("--encoder", type=Path, default=ENCODER_FILE, help="the bundle's video encoder, which it does not hold")
    parser.add_argument("--int8", action="store_true", help="decode pictures with the runtime's int8 kernels")
    parser.add_argument("--vocoder", action="store_true", help="measure the vocoder instead")
    parser.add_argument("--identities", type=int, default=16)
    parser.add_argument("--frames", type=int, default=32, help="a clip, a multiple of 4")
    parser.add_argument("-o", "--out", type=Path, help="contact sheet (PNG)")
    parser.add_argument("--voices", default="rms,awb")
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.frames <= 0 or args.frames % FRAMES:
        parser.error(f"--frames must be a multiple of {FRAMES}")
    torch.set_num_threads(args.threads)
    tell = lambda text: print(text, file=sys.stderr, flush=True)

    if args.vocoder:
        from tools.evaluate.vocoder import vocoder_quality
        from tools.studio.sentences import evaluation_sentences

        vocoder = open_models(args.bundle)[0].vocoder if args.bundle else open_vocoder(args.codec)
        result = vocoder_quality(vocoder, args.voices.split(","), evaluation_sentences()[: args.sentences], tell)
        lines = [f"{voice}: WER {r['vocoder_wer']:.2%}, true voice {r['true_wer']:.2%}, rise {100 * r['rise']:.2f} "
                 f"± {100 * r['rise_standard_error']:.2f} points; log-mel error {r['log_mel_error']:.3f} "
                 f"({r['sentences']} sentences, {r['words']} words)" for voice, r in result.items()]
    else:
        from tools.train.pictures import HELD_OUT

        nets = open_video(args.bundle, args.encoder) if args.bundle else open_codec(args.codec)
        if args.int8:
            nets = nets._replace(decoder=PackedFrames(nets.decoder))
        totals, samples = Totals(), []
        for i in range(args.identities):
            truth, poses, picture, boxes = performance(HELD_OUT[i], i, args.frames)
            sample = Sample(truth, nets.roundtrip(truth, poses, picture), boxes)
            tell(f"{i + 1}/{args.identities} identity {HELD_OUT[i]}: {totals.add(sample):.2f} dB")
            if i < 8:
                samples.append(sample)
        if args.out:
            contact_sheet(samples, args.out)
        result = totals.report()
        lines = [f"{name.replace('_', ' '):20} {value:.4g}" for name, value in result.items()]
    print(json.dumps(result, indent=1) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
