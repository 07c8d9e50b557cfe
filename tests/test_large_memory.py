"""Large memory is the system's: there while anything looks at it, gone afterwards, and no business of malloc's."""
import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch

from streamchar_rt import Engine, Snapshot, machine, ops
from streamchar_rt.bundle import MANIFEST, SHIPPED
from streamchar_rt.large_memory import LARGE, copy_of, empty

class _MallocInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split())]


@pytest.fixture
def malloc_holds():
    """Asks how many bytes malloc has given out."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        pytest.skip("this C library does not say what malloc holds")
    ask.restype = _MallocInfo

    def holds() -> int:
        gc.collect()
        info = ask()
        return info.uordblks + info.hblkhd

    before, blocks = holds(), [np.empty(3 * LARGE, np.uint8), np.empty(LARGE // 2, np.uint8)]
    assert 0 <= holds() - before - sum(block.nbytes for block in blocks) < LARGE // 4
    return holds


def test_tensors_and_arrays_share_it_and_keep_it(rng):
    shape = *(int(n) for n in rng.integers(1, 40, 2)), int(rng.choice([rng.integers(1, 40), LARGE]))
    kind = (torch.uint8, torch.float32, torch.bfloat16)[rng.integers(3)]
    assert empty(*shape, dtype=kind).dtype is kind and empty(*shape, dtype=kind).shape == shape
    pictures = empty(*shape)
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


@pytest.mark.parametrize("rows", [0, 1, 7, LARGE // 32])
def test_copies_are_equal_and_independent(rows, rng):
    array = rng.integers(-100, 100, (3, rows, 5)).astype(str(rng.choice(["<f4", "<i8", "|b1", "<i2"])))[:, :, ::2]
    array.flags.writeable = False
    copy = copy_of(array)
    assert copy.dtype == array.dtype and copy.flags.c_contiguous and np.array_equal(copy, array)
    before = array.copy()
    copy[...] = 1
    assert not np.shares_memory(copy, array) and np.array_equal(array, before)
    assert copy_of(np.float32(3)[None][0].reshape(())).shape == ()


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8])
def test_caches_and_their_exports_take_nothing_large_from_malloc(storage, malloc_holds):
    pytest.importorskip("streamchar_rt._native", reason="the native module is not built")
    layers, heads, rows = 4, 2, 4096
    make = lambda: ops.ContextCache(
        layers=layers, heads=heads, head_dim=64, capacity={"sink": rows, "motion": rows}, dtype=storage, kernels="native")
    before = malloc_holds()
    cache = make()
    assert cache.nbytes > 4 * LARGE and malloc_holds() - before < LARGE
    content = empty(layers, rows, heads, 64, dtype=torch.float32)
    content.uniform_()
    before = malloc_holds()
    for name in ("sink", "motion"):
        cache._store.import_chunk(name, 1, content, content)
    state = cache.state_dict()
    assert sum(chunk["key"].nbytes for chunks in state.values() for chunk in chunks) > 4 * LARGE
    assert malloc_holds() - before < LARGE
    other = make()
    other.load_state_dict(state)
    fork = other.fork()
    assert malloc_holds() - before < LARGE
    again = fork.state_dict()
    for name, chunks in state.items():
        for one, two in zip(chunks, again[name], strict=True):
            assert one["key"].dtype is cache.spec.exported_dtype and torch.equal(one["key"], two["key"])


@pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")
def test_snapshots_take_nothing_large_from_malloc_but_the_bytes_that_are_asked_for(malloc_holds, rng):
    with Engine.load("mini", max_sessions=3, kernels="auto") as engine:
        with engine.session("mika", seed=int(rng.integers(1 << 30)), steps=1) as session:
            session.push_text("Good morning, my friend, and how do you do? ")
            for _ in range(3):
                session.step()
            session.restore(Snapshot.from_bytes(session.snapshot().to_bytes()))  # tables that are made once
            session.step()
            before = malloc_holds()
            data = session.snapshot().to_bytes()
            assert len(data) > 8 * LARGE and malloc_holds() - before - len(data) < LARGE
            before = malloc_holds()
            held = [Snapshot.from_bytes(data) for _ in range(3)]
            assert malloc_holds() - before < LARGE
            for snapshot in held:
                session.restore(snapshot)
                session.step()
            forks = [session.fork() for _ in range(2)]
            for fork in forks:
                fork.step()
            session.reset()
            session.step()
            assert malloc_holds() - before < 2 * LARGE


@pytest.mark.skipif(machine.resident_bytes() == 0, reason="the system does not say how much memory is used")
def test_it_is_given_back():
    size = 64 << 20
    before = machine.resident_bytes()
    pictures = empty(size)
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
