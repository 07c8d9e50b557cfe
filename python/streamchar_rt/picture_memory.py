"""Memory of a chunk's pictures: several megabytes that an application keeps for as long as it likes.

It comes from the system and goes back there. malloc would put it between small blocks that live longer, and a process
that runs for hours would grow by what cannot be given back.
"""
from __future__ import annotations

import mmap
from math import prod

import torch


def empty_pictures(*shape: int) -> torch.Tensor:
    """uint8 zeros on the CPU, at least one; the memory is given back with the last tensor or array that looks at it."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros(shape, dtype=torch.uint8)
    memory = mmap.mmap(-1, prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)    # a fault for 2 MiB instead of 4 KiB
        except OSError:                           # a kernel without them
            pass
    return torch.frombuffer(memory, dtype=torch.uint8).reshape(shape)
