"""The loop every training shares: time budget, cosine schedule, EMA, checkpoints, resume, progress, curves."""
from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamchar_rt.ops import PackedLinear

from .device_updates import DeviceUpdates, GraphStep
from .shipped import bundle_weights, is_bundle


def add_arguments(parser: argparse.ArgumentParser, *, minutes: float, lr: float, batch: int) -> None:
    parser.add_argument("--minutes", type=float, default=minutes, help="training time in all, over resumes")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the curves")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="a checkpoint folder, or a bundle's, whose weights to start from")


class Loop:
    """Trains ``model`` until ``minutes`` of training time are used; resumes from ``out`` if it was stopped.

    The exponential moving average of the weights is what ``averaged()`` and the checkpoint's ``ema`` hold.
    Forward passes run in bfloat16 autocast where that is faster: on GPUs and on CPUs with AMX.
    ``--init`` fills what fits; ``keep`` names weights that it leaves alone. ``beside``: what else the checkpoint holds
    and a resume restores, by name, each with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, model: nn.Module, args: argparse.Namespace, *, betas: tuple[float, float] = (0.9, 0.98),
                 warmup: int = 200, decay: float = 0.999, save_seconds: float = 120.0, floor: float = 0.02,
                 keep: frozenset[str] = frozenset(), beside: Mapping[str, Any] | None = None):
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        self.model, self.args = model.to(args.device), args
        self.device = torch.device(args.device)
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], args.lr, betas=betas,
                                           weight_decay=0.01, fused=True)
        self.warmup, self.decay, self.save_seconds, self.floor = warmup, decay, save_seconds, floor
        self.beside = beside or {}
        self.iteration, self.seconds = 0, 0.0
        self.rate = 1.0                                       # of the schedule, as a share of --lr
        self.history: list[dict] = []
        self.sums: dict[str, tuple[float, int]] = {}          # total and count of each value since the last report
        self.pairs: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
        args.out.mkdir(parents=True, exist_ok=True)
        self.path = args.out / "checkpoint.pt"
        if args.init and not self.path.exists():
            own = self.model.state_dict()
            given = bundle_weights(args.init, own) if is_bundle(args.init) else load_weights(args.init)
            self.model.load_state_dict({k: v for k, v in given.items()
                                        if k in own and k not in keep and v.shape == own[k].shape}, strict=False)
        self.ema = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
        if self.path.exists():
            self._resume()

    @property
    def progress(self) -> float:
        return min(1.0, self.seconds / (self.args.minutes * 60))

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu" or PackedLinear.pays("bf16"))

    def run(self, step: GraphStep | Callable[[int], dict[str, torch.Tensor]],
            evaluate: Callable[[], dict[str, float]] | None = None,
            *, report_seconds: float = 30.0, evaluate_seconds: float = 240.0) -> None:
        """``step(iteration)`` returns losses; the one called ``loss`` is minimised.

        On a GPU a ``GraphStep`` is compiled and recorded before the clock starts.
        """
        self.model.train()
        updates = DeviceUpdates(self) if self.device.type == "cuda" else None
        with updates.on_stream() if updates else nullcontext():
            if updates and isinstance(step, GraphStep):
                updates.warm(step)
            self._run(step, evaluate, updates, report_seconds, evaluate_seconds)
        if updates:
            memory = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
            print("peak memory: {:.1f} GiB in tensors, {:.1f} GiB in all".format(*(x / 2 ** 30 for x in memory)), flush=True)

    def _run(self, step, evaluate, updates: DeviceUpdates | None, report_seconds: float, evaluate_seconds: float) -> None:
        last = time.monotonic()
        reported = saved = evaluated = self.seconds
        while self.progress < 1.0:
            self.rate = min(1.0, (self.iteration + 1) / self.warmup)
            self.rate *= self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * self.progress))
            if updates:
                updates(step, self.args.lr * self.rate, 1 - self._decay())
            else:
                self._update(step)
            self.iteration += 1
            now = time.monotonic()
            self.seconds += now - last
            last = now
            if self.seconds - reported >= report_seconds or self.progress >= 1.0:
                row = updates.means() if updates else {k: total / count for k, (total, count) in self.sums.items()}
                row = {k: round(v, 5) for k, v in row.items()}
                if evaluate and (self.seconds - evaluated >= evaluate_seconds or self.progress >= 1.0):
                    evaluated = self.seconds
                    row.update(self._evaluate(evaluate))
                self._report(row)
                reported = self.seconds
            if self.seconds - saved >= self.save_seconds or self.progress >= 1.0:
                self.save()
                saved = self.seconds
            last = time.monotonic() if self.seconds in (reported, saved) else last

    def _update(self, step: Callable[[int], dict[str, torch.Tensor]]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * self.rate
        losses = step(self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self._average()
        for name, value in losses.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + float(value.detach()), count + 1)

    def averaged(self) -> dict[str, torch.Tensor]:
        return self.ema

    def save(self) -> None:
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:              # a GPU's are tensors, recorded in its graphs
            group.update(lr=float(group["lr"]), capturable=False)
        state = {"model": self.model.state_dict(), "ema": self.ema, "optimizer": optimizer,
                 "iteration": self.iteration, "seconds": self.seconds, "history": self.history}
        if self.beside:
            state["beside"] = {name: other.state_dict() for name, other in self.beside.items()}
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def _resume(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = {k: v.float() for k, v in state["ema"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        for name, other in self.beside.items():
            other.load_state_dict(state["beside"][name])
        self.iteration, self.seconds, self.history = state["iteration"], state["seconds"], state["history"]
        print(f"resumed at iteration {self.iteration}, {self.seconds / 60:.1f} min", flush=True)

    def _decay(self) -> float:
        return min(self.decay, (1 + self.iteration) / (20 + self.iteration))

    def averaged_and_weights(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The averaged weights and the weights they follow, each the same tensors in every call."""
        if self.pairs is None:
            state = self.model.state_dict()
            names = [k for k in state if state[k].is_floating_point()]
            self.pairs = [self.ema[k] for k in names], [state[k] for k in names]
        return self.pairs

    @torch.no_grad()
    def _average(self) -> None:
        averaged, weights = self.averaged_and_weights()
        torch._foreach_lerp_(averaged, [x.float() for x in weights], 1 - self._decay())

    def _evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        keep = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict({k: v.to(keep[k].dtype) for k, v in self.ema.items()})
        self.model.eval()
        # A GPU takes less time for it than a compiler for shapes that only judging has.
        plain = torch.compiler.set_stance("force_eager") if self.device.type == "cuda" else nullcontext()
        with torch.no_grad(), plain:
            values = evaluate()
        self.model.load_state_dict(keep)
        self.model.train()
        return {f"eval_{k}": round(float(v), 5) for k, v in values.items()}

    def _report(self, row: dict[str, float]) -> None:
        left = self.args.minutes - self.seconds / 60
        row = {"iteration": self.iteration, "minutes": round(self.seconds / 60, 2), **row}
        self.history.append(row)
        self.sums = {}
        text = "  ".join(f"{k} {v}" for k, v in row.items())
        print(f"{text}  |  {max(0.0, left):.1f} min left", flush=True)
        with open(self.args.out / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        plot(self.history, self.args.out / "curves.png")


def load_weights(folder: Path, key: str = "ema") -> dict[str, torch.Tensor]:
    """Averaged weights of a checkpoint folder."""
    return torch.load(Path(folder) / "checkpoint.pt", map_location="cpu", weights_only=True)[key]


def plot(history: list[dict], path: Path) -> None:
    """Loss curves as a picture, one panel a value."""
    from PIL import Image, ImageDraw

    names = [k for k in dict.fromkeys(k for row in history for k in row) if k not in ("iteration", "minutes")]
    width, height = 360, 160
    image = Image.new("RGB", (width * min(3, max(1, len(names))), height * max(1, -(-len(names) // 3))), "white")
    draw = ImageDraw.Draw(image)
    for i, name in enumerate(names):
        points = [(row["minutes"], row[name]) for row in history if name in row and math.isfinite(row[name])]
        x0, y0 = (i % 3) * width, (i // 3) * height
        if not points:
            continue
        (left, right), values = (points[0][0], points[-1][0]), sorted(v for _, v in points)
        low, high = values[0], values[int(0.98 * (len(values) - 1))]
        scale_x = (width - 30) / max(right - left, 1e-9)
        scale_y = (height - 40) / max(high - low, 1e-9)
        line = [(x0 + 15 + (m - left) * scale_x, y0 + height - 10 - (min(v, high) - low) * scale_y) for m, v in points]
        draw.text((x0 + 15, y0 + 5), f"{name}: {points[-1][1]:.4g}  (min {low:.4g})", fill="black")
        if len(line) > 1:
            draw.line(line, fill=(40, 90, 200), width=2)
    image.save(path)
