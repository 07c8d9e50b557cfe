"""Which kernels a call spends a device's time in, as torch's profiler sees it; a CPU's ops where there is no GPU."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

TABLE = "kernels.md"
_NAME = 110     # characters of a kernel's name in the table


def kernel_times(call: Callable[[], object], gpu: bool, count: int = 15) -> dict[str, Any]:
    """The ``count`` kernels that take longest, and the sum of all, ms."""
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        call()
        if gpu:
            torch.cuda.synchronize()
    events = [event for event in profiler.key_averages() if not getattr(event, "is_user_annotation", False)]
    if gpu:
        events = [event for event in events if event.device_type == DeviceType.CUDA]
    own = lambda event: (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e3
    events.sort(key=own, reverse=True)
    return {"total_ms": sum(map(own, events)), "launches": sum(event.count for event in events),
            "kernels": [{"name": event.key, "ms": own(event), "calls": event.count} for event in events[:count]]}


def write(out: Path, title: str, found: dict[str, Any]) -> None:
    """Adds a table to the folder's file."""
    total = max(found["total_ms"], 1e-9)
    lines = [f"## {title}", "", f"{found['total_ms']:.2f} ms in {found['launches']} launches.", "",
             "| ms | share | calls | kernel |", "|---|---|---|---|"]
    lines += [f"| {each['ms']:.3f} | {each['ms'] / total:.1%} | {each['calls']} | `{each['name'][:_NAME]}` |"
              for each in found["kernels"]]
    with (out / TABLE).open("a") as file:
        file.write("\n".join(lines) + "\n\n")
