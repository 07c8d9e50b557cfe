"""The joint transformer's blocks of libstreamchar against numpy in float64, and what it says to wrong calls of them."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from .capi_contexts import DIM, HEADS, LAYERS, facts, make_context, put, some_tokens
from .capi_joint import WIDTH, chunk, destroy_layers, joint, joint_context, make_blocks, random_blocks
from .capi_problems import address, error, make_linear, random_rope

SINK, MOTION = 0, 1


class Problem:
    """Random streams with contexts of their own, and the call over them."""

    def __init__(self, capi, rng, streams, video, audio, storage=0, store=MOTION):
        self.capi, self.store = capi, store
        self.contexts, self.reads, self.past, keep = [], [], [], []
        for _ in range(streams):
            context, reads, past = joint_context(capi, storage), [], []
            for segment, most in ((SINK, 40), (MOTION, 200)):
                if rng.random() < 0.8:
                    count = int(rng.integers(1, most + 1))
                    put(capi, context, segment, some_tokens(capi, rng, count))
                    shift = random_rope(rng, 1, DIM)
                    reads.append(capi.sc_read(segment, 0, address(shift)))
                    past.append((chunk(capi, context, segment, 0, count), None if shift is None else shift[0]))
                    keep.append(shift)
            self.contexts.append(context)
            self.reads.append((capi.sc_read * max(1, len(reads)))(*reads))
            self.past.append(past)
        self.keep = keep
        self.video, self.audio = (
            rng.standard_normal((streams, n, WIDTH), dtype=np.float32) for n in (video, audio))
        self.modulation = np.float32(0.5) * rng.standard_normal(
            (int(rng.choice([1, streams])), 6, WIDTH), dtype=np.float32)
        self.rope = random_rope(rng, video + audio, DIM)

    def call(self, contexts=None, at=slice(None)):
        """The call over these streams, and the tokens that it will change."""
        capi = self.capi
        contexts = self.contexts[at] if contexts is None else contexts
        reads, past = self.reads[at], self.past[at]
        streams = (capi.sc_joint_stream * len(contexts))(*(
            capi.sc_joint_stream(c.value, ctypes.addressof(r), len(p), 0) for c, r, p in zip(contexts, reads, past)))
        video, audio = self.video[at].copy(), self.audio[at].copy()
        own = self.modulation if len(self.modulation) == 1 else self.modulation[at]
        call = capi.make(
            "sc_joint_blocks_run_call", stream_count=len(contexts), streams=ctypes.addressof(streams),
            video_tokens=video.shape[1], audio_tokens=audio.shape[1], video=video if video.size else None,
            audio=audio if audio.size else None, modulation=own,
            modulation_stride=0 if len(own) == 1 else 6 * WIDTH, rope=address(self.rope), store=self.store,
        )
        call.keep = streams, own
        return call, video, audio

    def wanted(self, blocks, i):
        modulation = self.modulation[i if len(self.modulation) > 1 else 0]
        return joint(blocks, self.video[i], self.audio[i], modulation, self.rope, self.past[i])

    def destroy(self):
        for context in self.contexts:
            self.capi.sc_context_destroy(context)


@pytest.mark.parametrize("storage,context_storage,limit", [
    ("SC_F32", "SC_F32", 1e-5), ("SC_BF16", "SC_F32", 2e-2), ("SC_INT8", "SC_INT8", 6e-2), ("SC_F32", "SC_BF16", 2e-2),
])
@pytest.mark.parametrize("video,audio", [(70, 16), (50, 0), (0, 33), (3, 101)])
def test_equals_float64(capi, rng, storage, context_storage, limit, video, audio):
    handle, blocks = make_blocks(capi, rng, getattr(capi, storage))
    problem = Problem(capi, rng, int(rng.integers(1, 4)), video, audio, getattr(capi, context_storage))
    before = [facts(capi, c) for c in problem.contexts]
    call, *got = problem.call()
    capi.call("sc_joint_blocks_run", handle, call)
    for i, context in enumerate(problem.contexts):
        *wanted, stored = problem.wanted(blocks, i)
        for a, b in zip(got, wanted):
            assert a[i].shape == b.shape and error(a[i], b) < limit
        assert facts(capi, context) != before[i]        # it is staged
        capi.call("sc_context_commit", context, MOTION, capi.SC_NEXT_LABEL)
        info = capi.make("sc_segment_info")
        capi.call("sc_context_segment_info", context, MOTION, info)
        kept = chunk(capi, context, MOTION, info.committed - 1, video + audio)
        for layer, pair in enumerate(stored):
            assert all(error(a, b) < limit for a, b in zip(kept[layer], pair))
    problem.destroy()
    capi.sc_joint_blocks_destroy(handle)


def test_without_a_store_contexts_stay_as_they_are(capi, rng):
    handle, blocks = make_blocks(capi, rng, capi.SC_F32)
    problem = Problem(capi, rng, 2, 20, 7, store=capi.SC_NO_SEGMENT)
    before = [facts(capi, c) for c in problem.contexts]
    call, *got = problem.call()
    capi.call("sc_joint_blocks_run", handle, call)
    for i in range(2):
        assert all(error(a[i], b) < 1e-5 for a, b in zip(got, problem.wanted(blocks, i)))
    assert [facts(capi, c) for c in problem.contexts] == before
    problem.destroy()
    capi.sc_joint_blocks_destroy(handle)


@pytest.mark.parametrize("storage", ["SC_F32", "SC_INT8"])
def test_a_stream_gets_the_same_bytes_alone_in_company_and_with_more_threads(capi, rng, storage):
    handle, _ = make_blocks(capi, rng, getattr(capi, storage))
    problem = Problem(capi, rng, 3, 60, 9, getattr(capi, storage))
    call, *together = problem.call()
    capi.call("sc_joint_blocks_run", handle, call)
    threads = capi.sc_threads()
    for i, count in enumerate((1, 2, 3)):
        try:
            capi.call("sc_set_threads", count)
            call, *alone = problem.call(at=slice(i, i + 1))
            capi.call("sc_joint_blocks_run", handle, call)
        finally:
            capi.call("sc_set_threads", threads)
        assert all(a[i].tobytes() == b.tobytes() for a, b in zip(together, alone))
    problem.destroy()
    capi.sc_joint_blocks_destroy(handle)


# ---------------------------------------------------------------- wrong calls
def test_wrong_runs_are_refused_and_change_nothing(capi, rng):
    invalid, big = capi.SC_E_INVALID_ARGUMENT, 2**31 - 1
    handle, _ = make_blocks(capi, rng, capi.SC_INT8)
    problem = Problem(capi, rng, 2, 11, 5)
    for context in problem.contexts:
        put(capi, context, SINK, some_tokens(capi, rng, 4))
    problem.reads = [(capi.sc_read * 1)(capi.sc_read(SINK, 0, None)) for _ in range(2)]
    problem.past = [[None]] * 2
    others = []
    for field, value in (("layers", 1), ("layers", 3), ("heads", 1), ("head_dim", 128)):
        params = make_context(capi)
        setattr(params, field, value)
        others.append(ctypes.c_void_p())
        capi.call("sc_context_create", params, ctypes.byref(others[-1]))
    before = [facts(capi, c) for c in problem.contexts]
    call, video, audio = problem.call()
    unchanged = video.copy(), audio.copy()

    def refused(status=invalid, blocks=handle, given=call):
        message = capi.refuses(status, "sc_joint_blocks_run", blocks, given)
        assert (video == unchanged[0]).all() and (audio == unchanged[1]).all()
        assert [facts(capi, c) for c in problem.contexts] == before
        return message

    wrong = [(name, None) for name in ("streams", "video", "audio", "modulation")]
    wrong += [("stream_count", value) for value in (-1, 0, big, 4097)]
    wrong += [(name, value) for name in ("video_tokens", "audio_tokens") for value in (-1, big, 1 << 24, 196)]
    wrong += [("store", value) for value in (-2, 2, SINK + 100, big)]
    for field, value in wrong:
        kept = getattr(call, field)
        setattr(call, field, value)
        refused()
        setattr(call, field, kept)
    call.video_tokens = call.audio_tokens = 0
    refused()
    call.video_tokens, call.audio_tokens = 30, 11      # 41 do not fit the sink
    call.store = SINK
    assert "sink" in refused()
    call.video_tokens, call.audio_tokens, call.store = 11, 5, MOTION

    streams = call.keep[0]
    for field, value in [("context", None), ("context", handle.value), ("context", problem.contexts[0].value),
                         *(("context", other.value) for other in others), ("reads", None), ("read_count", -1),
                         ("read_count", big)]:
        kept = getattr(streams[1], field)
        setattr(streams[1], field, value)
        refused()
        setattr(streams[1], field, kept)
    read = problem.reads[1][0]
    for field, value in (("segment", 2), ("segment", -1), ("age", 1), ("age", -1)):
        kept = getattr(read, field)
        setattr(read, field, value)
        refused()
        setattr(read, field, kept)
    call.struct_size -= 1
    refused(capi.SC_E_ABI_MISMATCH)
    call.struct_size += 1
    refused(given=None)
    refused(blocks=None)
    assert "sc_joint_blocks" in refused(blocks=problem.contexts[0])
    capi.call("sc_joint_blocks_run", handle, call)      # and unchanged it works
    for other in others:
        capi.sc_context_destroy(other)
    problem.destroy()
    capi.sc_joint_blocks_destroy(handle)


def test_a_stream_without_memory_leaves_all_of_them_as_they_were(capi, rng):
    handle, _ = make_blocks(capi, rng, capi.SC_F32)
    planned, contexts = ctypes.c_uint64(), []
    capi.call("sc_context_plan", make_context(capi), ctypes.byref(planned))
    for limit in (0, planned.value):
        contexts.append(ctypes.c_void_p())
        capi.call("sc_context_create", make_context(capi, memory_limit=limit), ctypes.byref(contexts[-1]))
    snapshot = ctypes.c_void_p()
    for segment in (SINK, MOTION, MOTION):
        put(capi, contexts[1], segment, some_tokens(capi, rng, 3))
    capi.call("sc_context_snapshot", contexts[1], ctypes.byref(snapshot))    # keeps the chunk that the next displaces
    put(capi, contexts[1], MOTION, some_tokens(capi, rng, 3))
    problem = Problem(capi, rng, 2, 4, 2)
    problem.past = [[], []]
    call, video, audio = problem.call(contexts)
    before, unchanged = [facts(capi, c) for c in contexts], (video.copy(), audio.copy())
    assert "memory_limit" in capi.refuses(capi.SC_E_HOST_MEMORY, "sc_joint_blocks_run", handle, call)
    assert [facts(capi, c) for c in contexts] == before
    assert (video == unchanged[0]).all() and (audio == unchanged[1]).all()
    capi.sc_snapshot_destroy(snapshot)
    capi.call("sc_joint_blocks_run", handle, call)
    for context in contexts:
        capi.call("sc_context_commit", context, MOTION, capi.SC_NEXT_LABEL)
        capi.sc_context_destroy(context)
    problem.destroy()
    capi.sc_joint_blocks_destroy(handle)


def test_blocks_that_do_not_fit_together_are_refused(capi, rng):
    invalid, unsupported, handle = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED, ctypes.c_void_p(77)
    structs, _ = random_blocks(capi, rng, capi.SC_BF16)
    other = make_linear(capi, np.ones((WIDTH, WIDTH + 1), np.float32), None, capi.SC_BF16)
    context = joint_context(capi, capi.SC_F32)
    name, out = "sc_joint_blocks_create", ctypes.byref(handle)
    for status, *arguments in [
        (invalid, 0, DIM, structs, LAYERS), (invalid, -1, DIM, structs, LAYERS), (invalid, HEADS + 1, DIM, structs, 2),
        (invalid, 4097, DIM, structs, LAYERS), (invalid, 1, DIM, structs, LAYERS), (invalid, HEADS, 128, structs, 2),
        (unsupported, HEADS, 63, structs, LAYERS), (unsupported, HEADS, 2**31 - 1, structs, LAYERS),
        (invalid, HEADS, DIM, None, LAYERS), *[(invalid, HEADS, DIM, structs, n) for n in (-1, 0, 4097)],
    ]:
        capi.refuses(status, name, *arguments, out)
    half = structs[1].audio
    bad = np.ones(6 * WIDTH, np.float32)
    bad[DIM - 1] = np.nan
    for field in ("qkv", "out", "expand", "contract", "table", "q_norm", "k_norm"):
        kept = getattr(half, field)
        wrong = [None, other.value, context.value] if field in ("qkv", "out", "expand", "contract") else \
            [None, bad.ctypes.data]
        for value in wrong:
            setattr(half, field, value)
            message = capi.refuses(invalid, name, HEADS, DIM, structs, LAYERS, out)
            assert f"blocks[1].audio.{field}" in message or "sc_linear" in message
        setattr(half, field, kept)
    capi.refuses(invalid, name, HEADS, DIM, structs, LAYERS, None)
    assert handle.value == 77
    capi.call(name, HEADS, DIM, structs, LAYERS, out)
    capi.sc_joint_blocks_destroy(handle)
    capi.sc_joint_blocks_destroy(None)
    destroy_layers(capi, structs)
    capi.sc_linear_destroy(other)
    capi.sc_context_destroy(context)
