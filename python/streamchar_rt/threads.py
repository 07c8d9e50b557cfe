"""CPU threads, set only while an engine works."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Inference mode with ``count`` threads for torch; the caller's settings are put back afterwards.

    torch keeps one thread count per process, so another thread of the application that runs torch meanwhile
    sees ``count`` too. The native kernels' own pool belongs to this package alone and keeps its size.
    """
    import torch

    from . import ops

    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    ops.set_num_threads(count)
    try:
        with torch.inference_mode():
            yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def prefer_sleeping_threads() -> None:
    """Lets OpenMP's idle threads sleep instead of spin; only works before torch is first imported.

    A spinning barrier costs whole scheduler slices when another process wants the same cores. Commands of this
    package call it for their own process; a library must not change its host's environment.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # the same for Intel's and LLVM's OpenMP
