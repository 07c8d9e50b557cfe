"""Pictures' memory is the system's: there while anything looks at it, and gone afterwards."""
import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch

from streamchar_rt import machine
from streamchar_rt.picture_memory import empty_pictures


def test_tensors_and_arrays_share_it_and_keep_it(rng):
    shape = tuple(int(n) for n in rng.integers(1, 40, 3))
    pictures = empty_pictures(*shape)
    assert pictures.shape == shape and pictures.dtype is torch.uint8 and pictures.is_contiguous() and not pictures.any()
    array = pictures.flatten(0, 1)[1:].numpy()
    wanted = rng.integers(0, 256, shape, np.uint8)
    pictures.copy_(torch.from_numpy(wanted))
    tensor = weakref.ref(pictures)
    del pictures
    gc.collect()
    assert tensor() is None
    assert np.array_equal(array, wanted.reshape(-1, shape[2])[1:])
    array[:] = 7
    assert (array == 7).all()


@pytest.mark.skipif(machine.resident_bytes() == 0, reason="the system does not say how much memory is used")
def test_it_is_given_back():
    size = 64 << 20
    before = machine.resident_bytes()
    pictures = empty_pictures(size)
    pictures.fill_(1)
    assert machine.resident_bytes() - before > size // 2
    del pictures
    gc.collect()
    assert machine.resident_bytes() - before < size // 2


@pytest.mark.skipif(machine.resident_bytes() == 0, reason="the system does not say how much memory is used")
def test_free_memory_is_given_back_where_the_c_library_can():
    """Blocks below a megabyte that malloc keeps, because one behind them is in use."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        machine.return_free_memory()    # nothing, and no error
        return
    blocks = [torch.ones(100_000, dtype=torch.uint8) for _ in range(1000)]
    last = blocks.pop()
    gc.collect()
    full = machine.resident_bytes()
    del blocks
    gc.collect()
    machine.return_free_memory()
    assert full - machine.resident_bytes() > 50 << 20 and bool(last.all())
