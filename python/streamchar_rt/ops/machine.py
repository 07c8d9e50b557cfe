"""Which kernels run here, and on how many threads."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError
from ._native import load_error, native


def kernels_in_use() -> dict[str, Any]:
    """Facts for logs and reports.

    Keys: native (bool), isa (in use: generic, avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16 or amx), available_isas, amx
    (whether tiles are in use), threads, cuda_built, cuda_architectures, cutlass (its version, or "none": then
    torch's linear layers run on a GPU); without the native module only ``native`` False and ``reason``.
    """
    if native is None:
        return {"native": False, "reason": str(load_error)}
    return {
        "native": True,
        "isa": native.isa(),
        "available_isas": tuple(native.available_isas()),
        "amx": native.amx(),
        "threads": native.threads(),
        "cuda_built": bool(native.cuda_architectures),
        "cuda_architectures": native.cuda_architectures,
        "cutlass": native.cutlass or "none",
    }


def set_num_threads(threads: int) -> None:
    """Sets how many threads the native kernels use, the caller included; waits for a running kernel.

    At first it is the number of usable CPUs, or the environment's STREAMCHAR_THREADS.

    Raises:
        ConfigError: unless 1 <= threads <= 1024.
    """
    _check(threads)
    if native is not None:
        native.set_threads(threads)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Kernels that the calling thread runs meanwhile use at most ``count`` threads, itself included.

    Other threads' kernels, and what ``kernels_in_use`` and ``set_num_threads`` say, are as before. Starts and ends no
    thread, so it may stand around the smallest piece of work.

    Raises:
        ConfigError: unless 1 <= count <= 1024.
    """
    _check(count)
    if native is None:
        yield
        return
    before = native.limit_calling_thread(count)
    try:
        yield
    finally:
        native.limit_calling_thread(before)


def _check(threads: int) -> None:
    if not 1 <= threads <= 1024:
        raise ConfigError(f"threads must be 1 to 1024, got {threads}", hint="the number of physical cores is best")
