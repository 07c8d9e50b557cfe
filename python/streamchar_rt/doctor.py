"""What ``streamchar doctor`` says: what this machine has, what is slow, and why."""
from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from . import __version__, machine
from .bundle import Bundle, open_bundle
from .errors import StreamCharError
from .threads import compute_threads, import_torch

_MEBI = 2**20
_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_PROC_BIND")
_OPTIONAL = {"av": "writing .mp4 and .webm", "pocketsphinx": "recognition tests", "skia": "drawing training data"}
_PACKAGES = {"av": "av", "pocketsphinx": "pocketsphinx", "skia": "skia-python"}


@dataclass
class Report:
    """Facts for machines; lines for people; ``problems`` stop the work, ``advice`` speeds it up."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.problems

    def text(self) -> str:
        lines = []
        for section, entries in self.facts.items():
            if isinstance(entries, dict):
                lines.append(f"{section}:")
                lines += [f"  {name:<20} {_plain(value)}" for name, value in entries.items()]
        lines += [f"problem: {line}" for line in self.problems]
        lines += [f"advice:  {line}" for line in self.advice]
        lines.append("all is well" if self.healthy else "this needs repair")
        return "\n".join(lines)


def examine(model: str = "mini", *, measure: bool = True) -> Report:
    """Looks at processor, threads, torch, kernels, bundle and memory; with ``measure``, also runs two chunks."""
    report = Report()
    _processor(report)
    _software(report)
    _kernels(report)
    bundle = _bundle(report, model)
    if bundle is not None and measure:
        _threads_beside_others(report)
        _speed(report, model)
    report.facts["problems"], report.facts["advice"] = list(report.problems), list(report.advice)
    return report


def _processor(report: Report) -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = machine.usable_cores()
    report.facts["processor"] = {
        "name": machine.cpu_name(),
        "usable cores": cores,
        "logical processors": machine.logical_cpus(),
        "load, last minute": round(load, 2),
    }
    if load > cores + 0.5:
        report.advice.append(f"other work keeps the processor busy (load {load:.1f} on {cores} cores): all is slower")
    if cores < 2:
        report.advice.append("one core: real time needs two of about 3 GHz")


def _software(report: Report) -> None:
    import_torch()
    import torch

    facts = {"streamchar_rt": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for module in ("numpy", "transformers", "safetensors"):
        facts[module] = importlib.metadata.version(module)
    for module, use in _OPTIONAL.items():
        try:
            facts[module] = importlib.metadata.version(_PACKAGES[module])
        except importlib.metadata.PackageNotFoundError:
            facts[module] = f"not installed ({use})"
            if module == "av":
                report.advice.append('for .mp4 and .webm files: pip install "streamchar-rt[media]"')
    facts["flite"] = shutil.which("flite") or "not installed (making training data)"
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts |= {name: os.environ.get(name, "not set") for name in _OPENMP}
    report.facts["software"] = facts


def _kernels(report: Report) -> None:
    from . import ops

    facts = ops.kernels_in_use()
    report.facts["kernels"] = facts
    if facts["native"]:
        fast = [storage for storage in ("bf16", "int8") if ops.PackedLinear.pays(storage)]
        facts["fast products"] = ["fp32", *fast]
    if not facts["native"]:
        report.advice.append(f"the native kernels are missing, torch stands in: {facts['reason']}; reinstall the package")
    elif os.environ.get("STREAMCHAR_KERNELS") == "reference":
        report.advice.append("STREAMCHAR_KERNELS=reference turns the native kernels off: unset it")
    elif facts["isa"] == "generic":
        report.advice.append("the processor has neither AVX2 nor AVX-512: kernels run in portable code")


def _bundle(report: Report, model: str) -> Bundle | None:
    try:
        bundle = open_bundle(model)
        bundle.verify()
    except StreamCharError as error:
        report.facts["bundle"] = {"model": model, "state": "unusable"}
        report.problems.append(str(error))
        return None
    plan = bundle.memory_plan(sessions=1, element_bytes=4)
    available = machine.available_bytes()
    report.facts["bundle"] = {
        "model": bundle.name,
        "folder": str(bundle.folder),
        "state": "whole",
        "size": f"{sum(e['bytes'] for e in bundle.manifest['files'].values()) / _MEBI:.1f} MiB",
        "characters": ", ".join(bundle.characters),
    }
    report.facts["memory"] = {f"{name}, MiB": round(size / _MEBI, 1) for name, size in plan.items()} | {
        "available, MiB": round(available / _MEBI)
    }
    if 0 < available < plan["total"] + 500 * _MEBI:  # torch itself takes a few hundred MiB
        report.problems.append(f"only {available / _MEBI:.0f} MiB of memory are available")
    return bundle


def _threads_beside_others(report: Report) -> None:
    """A small operation on every core: where its slow cases are very slow, threads wait for one another."""
    import torch

    from .lanes import Lanes

    threads = machine.usable_cores()
    x, weight = torch.randn(272, 256), torch.ones(256)
    lanes, times = Lanes(threads), []
    with compute_threads(threads):
        for _ in range(400):
            begin = time.perf_counter()
            lanes.map(lambda _: torch.nn.functional.rms_norm(x, (256,), weight), range(threads))
            times.append((time.perf_counter() - begin) * 1e3)
    lanes.close()
    times.sort()
    median, slow = statistics.median(times), times[int(len(times) * 0.98)]
    report.facts["threads"] = {"count": threads, "small op, ms": round(median, 3), "slow case, ms": round(slow, 3)}
    if slow > 20 * median and slow > 2:
        report.advice.append(
            f"threads wait long for one another ({slow:.1f} ms instead of {median:.2f}): other processes want the same "
            "cores; use one thread less (--threads)"
        )


def _speed(report: Report, model: str) -> None:
    from .engine import Engine

    try:
        with Engine.load(model) as engine:
            timings = engine.warmup()
            report.facts["kernels"] |= {"transformer": engine.dtype, "pictures": engine.picture_dtype}
    except StreamCharError as error:
        report.problems.append(str(error))
        return
    stages = {
        name: round(getattr(timings, f"{name}_ms"), 1)
        for name in ("orchestrator", "context", "denoise", "audio_decode", "video_decode", "total")
    }
    report.facts["speed"] = {f"{name}, ms": value for name, value in stages.items()} | {
        "real-time factor": round(timings.real_time_factor, 3)
    }
    if timings.real_time_factor > 0.9:
        total = stages.pop("total")
        slowest = max(stages, key=stages.__getitem__)
        report.advice.append(
            f"slower than playback, mostly by {slowest} ({100 * stages[slowest] / total:.0f} % of a chunk); "
            "take fewer denoising steps (--steps), or see the advice above"
        )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
