"""The language model's layers of libstreamchar against numpy in float64, and what it says to wrong calls of them."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from .capi_problems import address, error, make_linear

DIM, EPS = 64, 1e-6
LINEARS = ("qkv", "out", "gate_up", "down")
NORMS = ("input_norm", "hidden_norm", "q_norm", "k_norm")


def random_layers(capi, rng, count, width, heads, kv_heads, hidden, storage):
    """Structs of handles, which the caller destroys, and what they stand for: weights as they are multiplied."""
    shapes = {"qkv": ((heads + 2 * kv_heads) * DIM, width), "out": (width, heads * DIM), "gate_up": (2 * hidden, width),
              "down": (width, hidden)}
    sizes = dict(zip(NORMS, (width, width, DIM, DIM)))
    structs, truth = (capi.sc_decoder_layer * count)(), []
    for struct in structs:
        layer = {name: 1 + np.float32(0.3) * rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}
        for name, vector in layer.items():
            setattr(struct, name, vector.ctypes.data)
        for name, shape in shapes.items():
            weight = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1]))
            handle = make_linear(capi, weight, None, storage)
            capi.call("sc_linear_read", handle, weight)
            setattr(struct, name, handle)
            layer[name] = weight
        truth.append(layer)
    return structs, truth


def make_params(capi, structs, final_norm, width, heads, kv_heads):
    return capi.make("sc_language_model_params", width=width, heads=heads, kv_heads=kv_heads, head_dim=DIM,
                     layer_count=len(structs), layers=ctypes.addressof(structs), final_norm=final_norm)


def destroy_layers(capi, structs):
    for struct in structs:
        for name in LINEARS:
            capi.sc_linear_destroy(getattr(struct, name))


# ---------------------------------------------------------------- truth
def normed(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def turned(x, rope):
    """(T, heads, DIM) by (T, DIM / 2, 2): channels i and i + DIM / 2 are a pair."""
    a, b = x[..., : DIM // 2], x[..., DIM // 2:]
    c, s = rope[:, None, :, 0], rope[:, None, :, 1]
    return np.concatenate((a * c - b * s, a * s + b * c), -1)


def states(layers, final_norm, x, present, rope, heads, kv_heads):
    """Of one sequence (T, width)."""
    x, seen = x.astype(np.float64), np.tril(np.ones(2 * x.shape[:1], bool)) & present
    for layer in layers:
        qkv = (normed(x, layer["input_norm"]) @ layer["qkv"].T).reshape(len(x), -1, DIM)
        q, k, v = np.split(qkv, [heads, heads + kv_heads], 1)
        q, k = normed(q, layer["q_norm"]), normed(k, layer["k_norm"])
        if rope is not None:
            q, k = turned(q, rope), turned(k, rope)
        k, v = (np.repeat(y, heads // kv_heads, 1) for y in (k, v))
        logits = np.where(seen[:, None], np.einsum("thd,shd->ths", q, k) / np.sqrt(DIM), -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("ths,shd->thd", weights, v).reshape(len(x), -1) @ layer["out"].T
        gate, up = np.split(normed(x, layer["hidden_norm"]) @ layer["gate_up"].T, 2, 1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["down"].T
    return normed(x, final_norm) * present[:, None]


@pytest.mark.parametrize("storage,limit", [("SC_F32", 1e-5), ("SC_BF16", 2e-2), ("SC_INT8", 6e-2)])
@pytest.mark.parametrize("width,heads,kv_heads,hidden,tokens", [(70, 3, 1, 33, 51), (64, 2, 2, 100, 1), (96, 4, 2, 8, 130)])
def test_equals_float64(capi, rng, storage, limit, width, heads, kv_heads, hidden, tokens):
    structs, layers = random_layers(capi, rng, 2, width, heads, kv_heads, hidden, getattr(capi, storage))
    final_norm, handle = rng.random(width, dtype=np.float32), ctypes.c_void_p()
    capi.call("sc_language_model_create", make_params(capi, structs, final_norm, width, heads, kv_heads), ctypes.byref(handle))
    destroy_layers(capi, structs)
    batch = int(rng.integers(1, 4))
    x = rng.standard_normal((batch, tokens, width), dtype=np.float32)
    angles = 6 * rng.random((tokens, DIM // 2))
    rope = None if rng.random() < 0.2 else np.stack((np.cos(angles), np.sin(angles)), -1).astype(np.float32)
    present = (rng.random((batch, tokens)) < rng.random((batch, 1))).astype(np.uint8)
    present[:, 0] = 1
    for there in (present, None):
        out = np.full_like(x, np.nan)
        call = capi.make("sc_language_model_run_call", batch=batch, tokens=tokens, x=x, present=address(there),
                         rope=address(rope), out=out)
        capi.call("sc_language_model_run", handle, call)
        seen = np.ones(x.shape[:2], bool) if there is None else there.astype(bool)
        for i in range(batch):
            wanted = states(layers, final_norm, x[i], seen[i], rope, heads, kv_heads)
            assert error(out[i], wanted) < limit and (out[i][~seen[i]] == 0).all()
        threads = capi.sc_threads()
        for i, count in zip(range(batch), (1, 2, 3)):       # alone, in place, on other threads
            mine = x[i].copy()
            call = capi.make("sc_language_model_run_call", batch=1, tokens=tokens, x=mine, rope=address(rope), out=mine,
                             present=None if there is None else there[i].ctypes.data)
            try:
                capi.call("sc_set_threads", count)
                capi.call("sc_language_model_run", handle, call)
            finally:
                capi.call("sc_set_threads", threads)
            assert mine.tobytes() == out[i].tobytes()
    capi.sc_language_model_destroy(handle)


def test_wrong_models_and_runs_are_refused_and_change_nothing(capi, rng):
    invalid, unsupported, big = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED, 2**31 - 1
    structs, _ = random_layers(capi, rng, 2, 20, 2, 1, 9, capi.SC_F32)
    final_norm, handle = np.ones(20, np.float32), ctypes.c_void_p(77)
    params = make_params(capi, structs, final_norm, 20, 2, 1)
    other = make_linear(capi, np.ones((20, 21), np.float32), None, capi.SC_F32)
    create = lambda status: capi.refuses(status, "sc_language_model_create", params, ctypes.byref(handle))
    for status, field, value in [
        *[(invalid, name, n) for name in ("width", "heads", "kv_heads", "layer_count") for n in (-1, 0, big)],
        *[(invalid, name, None) for name in ("layers", "final_norm")], (invalid, "heads", 3), (invalid, "kv_heads", 2),
        (invalid, "width", 21), (unsupported, "head_dim", 32), (invalid, "head_dim", 128), (unsupported, "head_dim", big),
        (invalid, "eps", 0.0), (invalid, "eps", float("nan")),
    ]:
        kept = getattr(params, field)
        setattr(params, field, value)
        create(status)
        setattr(params, field, kept)
    bad = np.full(64, np.nan, np.float32)
    for field in LINEARS + NORMS:
        kept = getattr(structs[1], field)
        for value in (None, other.value if field in LINEARS else bad.ctypes.data):
            setattr(structs[1], field, value)
            assert "layers[1]" in create(invalid)
        setattr(structs[1], field, kept)
    final_norm[3] = np.inf
    assert "final_norm[3]" in create(invalid)
    final_norm[3] = 1
    capi.refuses(invalid, "sc_language_model_create", params, None)
    capi.refuses(invalid, "sc_language_model_create", None, ctypes.byref(handle))
    params.struct_size -= 1
    create(capi.SC_E_ABI_MISMATCH)
    params.struct_size += 1
    assert handle.value == 77

    capi.call("sc_language_model_create", params, ctypes.byref(handle))
    destroy_layers(capi, structs)
    x, out = np.ones((2, 3, 20), np.float32), np.full((2, 3, 20), np.nan, np.float32)
    call = capi.make("sc_language_model_run_call", batch=2, tokens=3, x=x, out=out)
    run = lambda status, model=handle, given=call: capi.refuses(status, "sc_language_model_run", model, given)
    for field, value in [("x", None), ("out", None), *[(n, v) for n in ("batch", "tokens") for v in (-1, 0, big, (1 << 23) + 1)]]:
        kept = getattr(call, field)
        setattr(call, field, value)
        run(invalid)
        setattr(call, field, kept)
    run(invalid, model=None), run(invalid, given=None)
    assert "sc_language_model" in run(invalid, model=other)
    call.struct_size -= 1
    run(capi.SC_E_ABI_MISMATCH)
    call.struct_size += 1
    assert np.isnan(out).all()
    capi.call("sc_language_model_run", handle, call)      # and unchanged it works
    assert np.isfinite(out).all()
    capi.sc_language_model_destroy(handle)
    capi.sc_language_model_destroy(None)
    capi.sc_linear_destroy(other)
