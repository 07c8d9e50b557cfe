"""CPU threads, set only while an engine works."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # GNU's OpenMP; Intel's and LLVM's


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Inference mode with ``count`` threads for the native kernels and one for torch (see ``lanes``).

    The caller's settings of torch are put back afterwards. torch keeps one thread count per process, so another
    thread of the application that runs torch meanwhile may see one thread, too. The native kernels' own pool belongs
    to this package alone and keeps its size.
    """
    import torch

    from . import ops

    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    ops.set_num_threads(count)
    try:
        with torch.inference_mode():
            yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def import_torch() -> None:
    """Imports torch so that OpenMP's waiting threads sleep instead of spin.

    A spinning barrier costs whole scheduler slices when another process wants the same cores. OpenMP reads the
    setting once, when it is loaded; so this works only where torch has not been imported before, and the
    environment is put back afterwards. What the environment says already is left as it is.
    """
    if "torch" in sys.modules:
        return
    missing = {name: value for name, value in _SLEEPING.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        import torch  # noqa: F401
    finally:
        for name in missing:
            os.environ.pop(name, None)
