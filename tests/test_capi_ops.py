"""The ops of libstreamchar against numpy in float64, over random shapes and strides."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from .capi_problems import address, append, attention, error, make_linear, norm_struct, random_norm, random_rope, ready
from .capi_problems import storages, strided


@pytest.mark.parametrize("case", range(8))
def test_attention_equals_float64(capi, rng, case):
    rng = np.random.default_rng([int(rng.integers(1 << 31)), case])
    dim, heads, tokens = int(rng.choice([64, 128])), int(rng.integers(1, 5)), int(rng.integers(1, 150))
    for storage, limit in storages(capi):
        q, norm, rope = strided(rng, tokens, heads, dim), random_norm(rng, tokens, dim), random_rope(rng, tokens, dim)
        segments, keys, values, shifts, kept = [], [], [], [], []
        for rows in rng.integers(1, 200, rng.integers(1, 4)):
            k, v = strided(rng, rows, heads, dim), strided(rng, rows, heads, dim)
            panels, capacity, key, value = append(capi, k, v, storage)
            used = int(rng.integers(0, rows + 1)) if segments else int(rows)    # the first one is never empty
            shift = random_rope(rng, 1, dim)
            segments.append(capi.sc_panels(panels.ctypes.data, capacity, used, address(shift)))
            keys.append(key[:used].astype(np.float64)), values.append(value[:used].astype(np.float64))
            shifts.append(None if shift is None else shift[0]), kept.append((panels, shift))
        array = (capi.sc_panels * len(segments))(*segments)
        out, lse = np.full((tokens, heads, dim), np.nan, np.float32), np.full((tokens, heads), np.nan, np.float32)
        call = capi.make(
            "sc_segment_attention_call", tokens=tokens, heads=heads, head_dim=dim, storage=storage,
            segment_count=len(array), segments=ctypes.addressof(array), q=capi.tokens(q),
            norm=norm_struct(capi, norm), rope=address(rope), out=out, lse=lse,
        )
        capi.call("sc_segment_attention", call)
        wanted, wanted_lse = attention(ready(q, norm, rope), keys, values, shifts)
        assert error(out, wanted) < limit
        assert np.abs(lse - wanted_lse).max() < 7 * limit * (1 + np.abs(wanted_lse).max())
        again = np.empty_like(out)
        call.out, call.lse = again.ctypes.data, None
        threads = capi.sc_threads()
        try:
            capi.call("sc_set_threads", 3)
            capi.call("sc_segment_attention", call)
        finally:
            capi.call("sc_set_threads", threads)
        assert out.tobytes() == again.tobytes()


def test_attention_without_any_key_is_zero(capi, rng):
    q, out = strided(rng, 3, 2, 64), np.full((3, 2, 64), np.nan, np.float32)
    lse = np.zeros((3, 2), np.float32)
    call = capi.make("sc_segment_attention_call", tokens=3, heads=2, head_dim=64, q=capi.tokens(q), out=out, lse=lse)
    capi.call("sc_segment_attention", call)
    assert not out.any() and (lse == -np.inf).all()


@pytest.mark.parametrize("case", range(4))
def test_append_keeps_ready_keys_and_plain_values(capi, rng, case):
    rng = np.random.default_rng([int(rng.integers(1 << 31)), case])
    rows, heads, dim = int(rng.integers(1, 200)), int(rng.integers(1, 5)), int(rng.choice([64, 128]))
    k, v = strided(rng, rows, heads, dim), strided(rng, rows, heads, dim)
    norm, rope = random_norm(rng, rows, dim), random_rope(rng, rows, dim)
    wanted = ready(k, norm, rope)
    pairs = np.linalg.norm(wanted.reshape(*wanted.shape[:-1], -1, 2), axis=-1).repeat(2, -1)
    before = 2e-6 * pairs      # float32's rounding: a turned channel's is of its pair's size
    for storage, rounding in ((capi.SC_F32, 0), (capi.SC_BF16, 2.0**-8)):
        *_, key, value = append(capi, k, v, storage, norm, rope)
        assert (np.abs(key - wanted) <= before + rounding * (np.abs(wanted) + before)).all()
        assert (np.abs(value - v) <= rounding * np.abs(v)).all()


@pytest.mark.parametrize("case", range(4))
def test_int8_panels_hold_whole_steps_and_round_once(capi, rng, case):
    """A key's step is of its own, a value's of its channel and panel of 64 tokens."""
    rng = np.random.default_rng([int(rng.integers(1 << 31)), case])
    rows, heads, dim = int(rng.integers(1, 200)), int(rng.integers(1, 5)), int(rng.choice([64, 128]))
    k, v = strided(rng, rows, heads, dim), strided(rng, rows, heads, dim)
    norm, rope = random_norm(rng, rows, dim), random_rope(rng, rows, dim)
    wanted = ready(k, norm, rope)
    panels, _, key, value = append(capi, k, v, capi.SC_INT8, norm, rope)
    step = np.abs(wanted).max(-1, keepdims=True) / 127
    assert (np.abs(key - wanted) <= 0.51 * step).all()
    for first in range(0, rows, 64):
        panel = slice(first, first + 64)
        step = np.abs(v[panel]).max(0, keepdims=True) / 127
        assert (np.abs(value[panel] - v[panel]) <= 0.51 * step).all()
    again, *_ = append(capi, key, value, capi.SC_INT8)
    assert (again == panels).all()


def test_rope_table(capi, rng):
    tokens, pairs = int(rng.integers(1, 40)), int(rng.integers(1, 65))
    positions = rng.standard_normal((tokens, 3)) * 20
    freqs, axes = rng.random(pairs), rng.integers(0, 3, pairs).astype(np.int32)
    table = np.empty((tokens, pairs, 2), np.float32)
    capi.call("sc_rope_table", tokens, positions, pairs, freqs, axes, table)
    angles = positions[:, axes] * freqs
    assert np.abs(table - np.stack((np.cos(angles), np.sin(angles)), -1)).max() < 1e-7
    axes[0] = 3
    capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_rope_table", tokens, positions, pairs, freqs, axes, table)


@pytest.mark.parametrize("storage", [0, 1, 2])
def test_a_context_attends_like_float64_through_its_life(capi, rng, storage):
    """Random appends, commits, rewinds, snapshots and forks; attention sees what a list of chunks says it should."""
    heads, dim, most = 2, 64, 9
    # Between two bf16 numbers a key may fall to either side, by the float32 rounding before it.
    limit = 3e-6 if storage == capi.SC_F32 else 2e-2
    segments = (capi.sc_segment * 2)(capi.sc_segment(b"sink", most, 1, 0, 0), capi.sc_segment(b"motion", most, 2, 2, 1))
    params = capi.make("sc_context_params", layers=1, heads=heads, head_dim=dim, storage=storage, segment_count=2,
                       segments=ctypes.addressof(segments))
    first = ctypes.c_void_p()
    capi.call("sc_context_create", params, ctypes.byref(first))
    contexts, snapshots = [(first, [[], []])], []     # (handle, chunks of each segment that are kept)

    def tokens(count):
        data = rng.standard_normal((3, count, heads, dim), dtype=np.float32)
        norm, rope = random_norm(rng, count, dim), random_rope(rng, count, dim)
        made = capi.make("sc_tokens", count=count, rope=address(rope), q_norm=norm_struct(capi, norm),
                         k_norm=norm_struct(capi, norm))
        made.q, made.k, made.v = map(capi.tokens, data)
        made.keep = data, norm, rope
        return made

    def stored(x):
        """As the storage rounds it: bf16 is the upper half of a float32, rounded to the nearest, ties to even. For
        int8, the limit has room."""
        if storage != capi.SC_BF16:
            return x
        bits = x.astype(np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32).astype(np.float64)

    for _ in range(60):
        handle, chunks = contexts[rng.integers(len(contexts))]
        action = rng.choice(["store", "store", "sink", "rewind", "snapshot", "restore", "fork", "clear"])
        if action in ("store", "sink"):
            segment = int(action == "store")
            now = tokens(int(rng.integers(1, most + 1)))
            (q, k, v), norm, rope = now.keep
            seen = [(s, age, None if rng.random() < 0.3 else random_rope(rng, 1, dim))
                    for s in range(2) for age in range(min(2 if s else 1, len(chunks[s]))) if rng.random() < 0.8]
            reads = (capi.sc_read * max(1, len(seen)))(*(capi.sc_read(s, a, address(t)) for s, a, t in seen))
            out = np.empty((now.count, heads, dim), np.float32)
            capi.call("sc_context_attend", handle, 0, now, reads, len(seen), segment, out)
            own = stored(ready(k, norm, rope)), stored(v.astype(np.float64))
            pairs = [chunks[s][-1 - age] for s, age, _ in seen] + [own]
            shifts = [None if t is None else t[0] for *_, t in seen] + [None]
            wanted, _ = attention(ready(q, norm, rope), *zip(*pairs), shifts)
            assert error(out, wanted) < limit
            capi.call("sc_context_commit", handle, segment, capi.SC_NEXT_LABEL)
            chunks[segment] = (chunks[segment] + [own])[-(4 if segment else 1):]
        elif action == "rewind" and len(chunks[1]) > 2:     # both chunks that are live then are kept
            label = ctypes.c_int64()
            capi.call("sc_context_chunk", handle, 1, len(chunks[1]) - 2, ctypes.byref(label), None)
            if capi.sc_context_rewind(handle, 1, label) == 0:
                chunks[1] = chunks[1][:-1]
        elif action == "snapshot":
            made = ctypes.c_void_p()
            capi.call("sc_context_snapshot", handle, ctypes.byref(made))
            snapshots.append((made, [list(c) for c in chunks]))
        elif action == "restore" and snapshots:
            made, then = snapshots[rng.integers(len(snapshots))]
            capi.call("sc_context_restore", handle, made)
            chunks[:] = [list(c) for c in then]
        elif action == "fork" and len(contexts) < 4:
            made = ctypes.c_void_p()
            capi.call("sc_context_fork", handle, ctypes.byref(made))
            contexts.append((made, [list(c) for c in chunks]))
        elif action == "clear" and rng.random() < 0.2:
            capi.call("sc_context_clear", handle, 1)
            chunks[1] = []
    for handle, _ in contexts:
        capi.sc_context_destroy(handle)
    for made, _ in snapshots:
        capi.sc_snapshot_destroy(made)


# ---------------------------------------------------------------- what surrounds attention
def rows_view(capi, x):
    """(B or 1, T or 1, d) broadcast to what the call says."""
    return capi.sc_row_view(x.ctypes.data, *(0 if n == 1 else s // 4 for n, s in zip(x.shape[:2], x.strides)))


def test_rows_equal_float64(capi, rng):
    for _ in range(6):
        batch, tokens, width = (int(rng.integers(1, n)) for n in (4, 30, 200))
        shared = lambda: strided(rng, *(int(rng.choice([1, n])) for n in (batch, tokens)), width)
        x, update, shift, scale, gate = strided(rng, batch, tokens, width), strided(rng, batch, tokens, width), \
            shared(), shared(), shared()
        out = np.empty((batch, tokens, width), np.float32)
        modulate = capi.make("sc_adaln_modulate_call", batch=batch, tokens=tokens, width=width, x=rows_view(capi, x),
                             shift=rows_view(capi, shift), scale=rows_view(capi, scale), out=out)
        capi.call("sc_adaln_modulate", modulate)
        wide = x.astype(np.float64)
        normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
        wanted = normal * (1.0 + scale) + shift
        # A row of few channels that hardly differ is all rounding: judged where eps does not rule.
        steady = np.broadcast_to(wide.std(-1, keepdims=True) > 0.05, wanted.shape)
        assert np.allclose(out[steady], wanted[steady], rtol=1e-4, atol=1e-4)
        residual = capi.make("sc_gated_residual_call", batch=batch, tokens=tokens, width=width, x=rows_view(capi, x),
                             gate=rows_view(capi, gate), update=rows_view(capi, update), out=out)
        capi.call("sc_gated_residual", residual)
        exact = wide + gate.astype(np.float64) * update
        assert (np.abs(out - exact) <= 3e-7 * (np.abs(wide) + np.abs(gate.astype(np.float64) * update))).all()
        in_place = np.ascontiguousarray(x)
        residual.x, residual.out = rows_view(capi, in_place), in_place.ctypes.data
        capi.call("sc_gated_residual", residual)
        assert in_place.tobytes() == out.tobytes()


@pytest.mark.parametrize("storage,limit", [("SC_F32", 2e-6), ("SC_BF16", 8e-3), ("SC_INT8", 3e-2)])
def test_linear_equals_float64(capi, rng, storage, limit):
    for _ in range(4):
        batch, per_batch = int(rng.integers(1, 4)), int(rng.integers(1, 30))
        inputs, outputs = (int(n) for n in rng.integers(32, 200, 2))
        weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
        bias = rng.standard_normal(outputs, dtype=np.float32)
        x = rng.standard_normal((batch * per_batch, inputs + 3), dtype=np.float32)[:, :inputs]
        handle = make_linear(capi, weight, bias, getattr(capi, storage))
        packed = np.empty_like(weight)
        capi.call("sc_linear_read", handle, packed)
        assert error(packed, weight) < limit and (storage != "SC_F32" or (packed == weight).all())
        y = np.full((batch * per_batch, outputs + 2), np.nan, np.float32)
        call = capi.make("sc_linear_apply_call", rows=len(x), rows_per_batch=per_batch, x=x, x_stride=inputs + 3, y=y,
                         y_stride=outputs + 2)
        capi.call("sc_linear_apply", handle, call)
        plain = x.astype(np.float64) @ packed.T.astype(np.float64) + bias
        assert error(y[:, :outputs], plain) < limit and np.isnan(y[:, outputs:]).all()

        shift, scale = 0.3 * rng.standard_normal((2, batch, inputs), dtype=np.float32)
        gate = rng.standard_normal(outputs, dtype=np.float32)
        residual = rng.standard_normal((len(x), outputs), dtype=np.float32)
        wide = x.astype(np.float64)
        normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
        of_row = np.arange(len(x)) // per_batch
        inner = (normal * (1.0 + scale[of_row]) + shift[of_row]) @ packed.T.astype(np.float64) + bias
        gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        together = residual.copy()      # y is the residual itself
        call = capi.make(
            "sc_linear_apply_call", rows=len(x), rows_per_batch=per_batch, activation=capi.SC_GELU_TANH, x=x,
            x_stride=inputs + 3, y=together, y_stride=outputs, residual=together, residual_stride=outputs,
            shift=capi.sc_batch_vector(shift.ctypes.data, inputs),
            scale=capi.sc_batch_vector(scale.ctypes.data, inputs),
            gate=capi.sc_batch_vector(gate.ctypes.data, 0),
        )
        capi.call("sc_linear_apply", handle, call)
        assert error(together - residual, gate * gelu) < 3 * limit
        capi.sc_linear_destroy(handle)


def test_istft_equals_numpy_and_a_cut_stream_gives_the_same_bytes(capi, rng):
    for _ in range(3):
        batch, count, size = int(rng.integers(1, 3)), int(rng.integers(2, 12)), int(2 ** rng.integers(4, 9))
        hop = int(rng.integers(1, size + 1))
        frames = (rng.standard_normal((batch, size // 2 + 1, count, 2), dtype=np.float32))
        window = (0.1 + rng.random(size)).astype(np.float32)
        state = [np.zeros((batch, size - hop), np.float32), np.zeros(size - hop, np.float32)]

        def apply(part, tail, weight):
            samples = np.empty((batch, part.shape[2] * hop), np.float32)
            following = [np.empty_like(tail), np.empty_like(weight)]
            call = capi.make(
                "sc_istft_overlap_add_call", batch=batch, frame_count=part.shape[2], size=size, hop=hop, frames=part,
                window=window, tail=tail, weight=weight, samples=samples, next_tail=following[0],
                next_weight=following[1],
            )
            call.batch_stride, call.bin_stride, call.frame_stride = (s // 4 for s in part.strides[:3])
            capi.call("sc_istft_overlap_add", call)
            return samples, *following

        whole = apply(frames, *state)
        spectra = frames[..., 0].astype(np.float64) + 1j * frames[..., 1]
        spectra[:, [0, -1]] = spectra[:, [0, -1]].real
        total, divisor = np.zeros((batch, (count - 1) * hop + size)), np.zeros((count - 1) * hop + size)
        for t in range(count):
            at = slice(t * hop, t * hop + size)
            total[:, at] += np.fft.irfft(spectra[..., t], size) * window
            divisor[at] += window.astype(np.float64) ** 2
        done = count * hop
        wanted = total[:, :done] / np.maximum(divisor[:done], 1e-3)
        assert error(whole[0], wanted) < 3e-6
        if hop < size:
            assert error(whole[1], total[:, done:]) < 3e-6 and error(whole[2], divisor[done:]) < 3e-6
        cut = int(rng.integers(0, count + 1))
        first = apply(frames[:, :, :cut], *state)
        second = apply(frames[:, :, cut:], *first[1:])
        assert np.concatenate((first[0], second[0]), 1).tobytes() == whole[0].tobytes()
        assert [x.tobytes() for x in second[1:]] == [x.tobytes() for x in whole[1:]]
