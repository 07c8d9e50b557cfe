"""Memory of large things that come and go: a chunk's pictures, a snapshot's keys and values.

It comes from the system and goes back there. malloc would put it between small blocks that live longer, and a process
that runs for hours would grow by what cannot be given back.
"""
from __future__ import annotations

import mmap
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

LARGE = 1 << 20  # bytes; less is malloc's business


def empty(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Zeros on the CPU; the memory is given back with the last tensor or array that looks at it."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE or not _POSSIBLE:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(_mapped(size), dtype=dtype).reshape(shape)


def copy_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous copy of its own memory, writable."""
    if array.nbytes < LARGE or not _POSSIBLE:
        return np.array(array, order="C")
    copy = np.frombuffer(_mapped(array.nbytes), array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


_POSSIBLE = hasattr(mmap, "MAP_PRIVATE")


def _mapped(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)    # a fault for 2 MiB instead of 4 KiB
        except OSError:                           # a kernel without them
            pass
    return memory
