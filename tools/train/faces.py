"""Finish the video decoder on faces: its upper layers, on windows of eyes and mouth, under a critic.

    python -m tools.train.faces --init CODEC_OR_BUNDLE --out DIR --minutes 40

Eyes and mouths are drawn, not warped, and are a tenth of the picture: trained on whole pictures most of the work is
spent elsewhere. Here the encoder and the decoder's trunk stay as they are; what the trunk says of a clip is computed
once and kept, and the layers above it learn from windows of it, for a twentieth of the cost of whole clips. Some windows
lie elsewhere in the picture, so that the rest stays as good as it was, and the flow is held to what it was. A pool
of clips is kept and slowly renewed.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from streamchar_rt.codecs.video import FRAMES, PATCH, VideoDecoder
from tools.studio.character import Identity, Renderer
from tools.studio.pose import REST

from .loop import Loop, add_arguments
from .pictures import (FIRST_TRAIN_IDENTITY, HELD_OUT, attention_map, displaced, face_centres, performed_track, random_track,
                       to_float)
from .video_codec import LATENTS, Finish, VideoCodec, losses

HEIGHT, WIDTH = 112, 128         # of a window, pixels: both eyes and the mouth
COARSE = 2 * PATCH               # pixels a place of the trunk's output
EDGE = 8                         # pixels along a window's edge that see its padding, and do not count
FLOW_EDGE = 6                    # and places of the flow


@dataclass
class Windows:
    """Windows of decoded frames; N of them. What the layers above the trunk are given, and what they are to draw."""
    trunk: torch.Tensor          # (N, 80, HEIGHT / 8, WIDTH / 8)
    middle: torch.Tensor         # reference features at 1/8
    fine: torch.Tensor           # and at 1/4
    warped: torch.Tensor         # (N, 4, HEIGHT, WIDTH) moved reference, [0, 1]
    flow: torch.Tensor           # (N, parts + 2, HEIGHT / 4, WIDTH / 4) as the decoder had it
    truth: torch.Tensor          # uint8 (N, HEIGHT, WIDTH, 4) premultiplied
    still: torch.Tensor          # uint8, the reference there
    weight: torch.Tensor         # (N, 1, HEIGHT, WIDTH)
    centres: torch.Tensor        # (N, 3, 2) of eyes and mouth in the window
    faces: torch.Tensor          # bool (N,): not one that lies elsewhere

    def at(self, index: torch.Tensor) -> "Windows":
        return Windows(**{k: v[index] for k, v in vars(self).items()})

    def put(self, index: int, other: "Windows") -> None:
        """Replace those from ``index`` on."""
        for name, value in vars(self).items():
            value[index: index + len(other.faces)] = getattr(other, name)

    @staticmethod
    def joined(parts: list["Windows"]) -> "Windows":
        return Windows(**{k: torch.cat([getattr(p, k) for p in parts]) for k in vars(parts[0])})


def upper(decoder: VideoDecoder, w: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder above its trunk: frames (N, 4, HEIGHT, WIDTH), and what its flow is made from."""
    x = decoder.middle(decoder.mix_middle(torch.cat([w.trunk, w.middle], 1).float().contiguous(memory_format=torch.channels_last)))
    flow = F.pixel_shuffle(decoder.flow(F.silu(x)), 2)
    warped = w.warped.float()
    x = torch.cat([F.pixel_shuffle(decoder.up(x), 2), w.fine.float(), F.pixel_unshuffle(warped, PATCH)], 1)
    x = decoder.fine(decoder.mix_fine(x.contiguous(memory_format=torch.channels_last)))
    x = F.pixel_shuffle(decoder.out(F.silu(x)), PATCH).float()
    return torch.lerp(x[:, :4] + 0.5, warped, torch.sigmoid(x[:, 4:])), flow


UPPER = ("mix_middle", "middle", "flow", "up", "mix_fine", "fine", "out")


class Kept:
    """Keeps what passes through a layer."""

    def __init__(self, layer: torch.nn.Module):
        layer.register_forward_hook(self._keep)

    def _keep(self, layer, inputs, output) -> None:
        self.inputs, self.output = inputs[0], output


class Maker:
    """Makes windows of fresh clips with the codec as it was at first."""

    def __init__(self, codec: VideoCodec, rng: np.random.Generator, noise: float, displaced_share: float, elsewhere: float):
        self.codec, self.rng, self.noise, self.displaced, self.elsewhere = codec, rng, noise, displaced_share, elsewhere
        self.mixed, self.flow = Kept(codec.decoder.mix_middle), Kept(codec.decoder.flow)

    @torch.no_grad()
    def clip(self, identity: int) -> Windows:
        """One window of each frame of a clip."""
        rng, codec = self.rng, self.codec
        track = (performed_track if rng.random() < 0.8 else random_track)(rng, LATENTS * FRAMES)
        seen = displaced(rng, track) if rng.random() < self.displaced else track
        renderer = Renderer(Identity.from_seed(identity))
        draw = lambda poses: torch.from_numpy(np.stack([renderer.draw(p, premultiplied=True) for p in poses]))
        frames = draw(track)
        still = draw([REST])
        poses = torch.from_numpy(track)[None]
        shown, told = (frames, poses) if seen is track else (draw(seen), torch.from_numpy(seen)[None])
        _, warped, _, _ = codec(to_float(shown)[None], told, to_float(still), self.noise, moved=poses)
        trunk = codec.decoder.config.decoder[1]
        mixed, flow = self.mixed.inputs, F.pixel_shuffle(self.flow.output, 2)
        fine, _, _ = codec.reference(to_float(still))
        weights = np.stack([attention_map(renderer, p) for p in track])
        rows = []
        for t, pose in enumerate(track):
            centres = face_centres(renderer, pose)
            face = rng.random() >= self.elsewhere
            x, y = self._corner(centres.mean(0) if face else rng.random(2) * renderer.size, renderer.size)
            cut = lambda a, cell: a[..., y // cell: (y + HEIGHT) // cell, x // cell: (x + WIDTH) // cell]
            pixels = lambda a: a[y: y + HEIGHT, x: x + WIDTH]
            weight = torch.zeros(1, HEIGHT, WIDTH)
            weight[:, EDGE: -EDGE, EDGE: -EDGE] = torch.from_numpy(pixels(weights[t]))[EDGE: -EDGE, EDGE: -EDGE]
            rows.append((cut(mixed[t, :trunk], COARSE), cut(mixed[t, trunk:], COARSE), cut(fine[0], PATCH), cut(warped[0, t], 1),
                         cut(flow[t], PATCH), pixels(frames[t]), pixels(still[0]), weight,
                         torch.from_numpy(centres - [x, y]).float(), torch.tensor(face)))
        columns = [torch.stack(c) for c in zip(*rows)]
        return Windows(*(c.half() if c.is_floating_point() else c for c in columns))

    def _corner(self, centre: np.ndarray, size: int) -> tuple[int, int]:
        """A window's corner on the trunk's grid, near where its middle is wanted."""
        wanted = centre - [WIDTH / 2, HEIGHT / 2] + self.rng.integers(-1, 2, 2) * COARSE
        x, y = np.clip(np.round(wanted / COARSE) * COARSE, 0, [size - WIDTH, size - HEIGHT]).astype(int)
        return int(x), int(y)


def part_errors(y: torch.Tensor, w: Windows) -> dict[str, float]:
    """PSNR of mouths and eyes, dB, and how sharp they are: mean size of the steps between pixels, over the truth's."""
    x, out = to_float(w.truth), {}
    steps = lambda a: (a.diff(dim=-1).abs()[..., :-1, :] + a.diff(dim=-2).abs()[..., :-1])
    for name, mask in (("mouth", w.weight > 5), ("eyes", (w.weight > 2) & (w.weight < 5))):
        error = ((y - x)[:, :3].square() * mask).sum() / (3 * mask.sum())
        inner = mask[..., :-1, :-1]
        out[f"psnr_{name}"] = float(-10 * torch.log10(error))
        out[f"sharp_{name}"] = float((steps(y)[:, :3] * inner).sum() / (steps(x)[:, :3] * inner).sum())
    return out


def save_sheet(y: torch.Tensor, w: Windows, path) -> None:
    """Truth above, drawn below."""
    from PIL import Image
    over = lambda a: a[:, :3] + (1 - a[:, 3:]) * 0.9
    pick = w.faces.nonzero()[:, 0][:: max(1, int(w.faces.sum()) // 10)][:10]
    rows = [torch.cat(list(over(a[pick].clamp(0, 1))), 2) for a in (to_float(w.truth), y)]
    Image.fromarray((torch.cat(rows, 1).movedim(0, -1) * 255).byte().numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=40, lr=6e-4, batch=32)
    parser.add_argument("--sharp", type=float, default=0.4, help="share of the gradient that the critic has; 0: none")
    parser.add_argument("--noise", type=float, default=0.15, help="most noise on a clip's latents")
    parser.add_argument("--displaced", type=float, default=0.4, help="see tools.train.video_codec")
    parser.add_argument("--elsewhere", type=float, default=0.2, help="share of windows that are not of a face")
    parser.add_argument("--flow", type=float, default=0.1, help="weight of the flow's change")
    parser.add_argument("--pool", type=int, default=600, help="clips that are kept")
    parser.add_argument("--renew", type=float, default=0.15, help="fresh clips an iteration")
    args = parser.parse_args()
    codec = VideoCodec().to(memory_format=torch.channels_last)
    codec.requires_grad_(False)
    for name in UPPER:
        getattr(codec.decoder, name).requires_grad_(True)
    finish = Finish(args.sharp, 4e-4, torch.device(args.device)) if args.sharp else None
    beside = {"critic": finish.critic, "critic_optimizer": finish.optimizer} if finish else None
    loop = Loop(codec, args, betas=(0.9, 0.98), decay=0.999, warmup=100, beside=beside)
    first = VideoCodec().to(memory_format=torch.channels_last)
    first.load_state_dict(codec.state_dict())
    rng = np.random.default_rng((args.seed, loop.iteration))
    maker = Maker(first.eval(), rng, args.noise, args.displaced, args.elsewhere)
    fresh = lambda: maker.clip(int(rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31)))
    test_rng = np.random.default_rng(1)
    test_maker = Maker(first, test_rng, 0.0, 0.5, 0.0)
    test = Windows.joined([test_maker.clip(HELD_OUT[i]) for i in range(24)])
    pool, oldest = Windows.joined([fresh() for _ in range(args.pool)]), 0
    print(f"{args.pool} clips, {sum(v.nbytes for v in vars(pool).values()) / 2 ** 20:.0f} MiB", flush=True)

    def step(iteration: int) -> dict[str, torch.Tensor]:
        nonlocal oldest
        if rng.random() < args.renew:
            pool.put(oldest, fresh())
            oldest = (oldest + LATENTS * FRAMES) % len(pool.faces)
        w = pool.at(torch.from_numpy(rng.integers(0, len(pool.faces), args.batch)))
        x, weight = to_float(w.truth), w.weight.float()
        with loop.autocast():
            y, flow = upper(codec.decoder, w)
        pixel, _ = losses(y[:, None], w.warped[:, None].float(), x[:, None], weight[:, None], to_float(w.still))
        moved = (flow.float() - w.flow.float())[..., FLOW_EDGE: -FLOW_EDGE, FLOW_EDGE: -FLOW_EDGE].abs().mean()
        f = w.faces.nonzero()[:, 0]
        said = finish(iteration, codec, y[f, None], x[f, None], w.centres[f, None].float(), pixel) if finish else {}
        return {"loss": pixel + args.flow * moved + said.get("sharp", 0.0), "pixel": pixel, "moved": moved, **said}

    def evaluate() -> dict[str, float]:
        y = torch.cat([upper(codec.decoder, test.at(i))[0] for i in torch.arange(len(test.faces)).split(16)])
        save_sheet(y, test, args.out / "faces.png")
        return part_errors(y, test)

    loop.run(step, evaluate, evaluate_seconds=120)


if __name__ == "__main__":
    main()
