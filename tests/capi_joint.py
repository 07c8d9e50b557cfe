"""Random joint blocks of libstreamchar, and their truth: numpy in float64."""
from __future__ import annotations

import ctypes

import numpy as np

from .capi_contexts import DIM, HEADS, LAYERS, make_context
from .capi_problems import attention, make_linear, ready

WIDTH = HEADS * DIM
HIDDEN = {"video": 176, "audio": 80}
SHAPES = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "expand": (None, WIDTH), "contract": (WIDTH, None)}


def random_half(capi, rng, kind, storage):
    """A struct of handles, and what it stands for: weights as they are multiplied."""
    made, truth = capi.sc_joint_half(), {}
    for name, shape in SHAPES.items():
        outputs, inputs = (HIDDEN[kind] if n is None else n for n in shape)
        weight = rng.standard_normal((outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        bias = np.float32(0.1) * rng.standard_normal(outputs, dtype=np.float32)
        handle = make_linear(capi, weight, bias, storage)
        capi.call("sc_linear_read", handle, weight)
        setattr(made, name, handle)
        truth[name] = weight, bias
    truth["table"] = np.float32(0.3) * rng.standard_normal((6, WIDTH), dtype=np.float32)
    for name in ("q_norm", "k_norm"):
        truth[name] = 1 + np.float32(0.2) * rng.standard_normal(DIM, dtype=np.float32)
    for name in ("table", "q_norm", "k_norm"):
        setattr(made, name, truth[name].ctypes.data)
    return made, truth


def random_blocks(capi, rng, storage):
    """Structs of handles, which the caller destroys, and per block what (video, audio) stand for."""
    pairs = [[random_half(capi, rng, kind, storage) for kind in HIDDEN] for _ in range(LAYERS)]
    structs = (capi.sc_joint_block * LAYERS)(*(capi.sc_joint_block(video[0], audio[0]) for video, audio in pairs))
    return structs, [(video[1], audio[1]) for video, audio in pairs]


def destroy_layers(capi, structs):
    for block in structs:
        for half in (block.video, block.audio):
            for name in SHAPES:
                capi.sc_linear_destroy(getattr(half, name))


def make_blocks(capi, rng, storage):
    """The handle alone lives on, and what it stands for."""
    structs, blocks = random_blocks(capi, rng, storage)
    handle = ctypes.c_void_p()
    capi.call("sc_joint_blocks_create", HEADS, DIM, structs, LAYERS, ctypes.byref(handle))
    destroy_layers(capi, structs)
    return handle, blocks


def joint_context(capi, storage):
    handle = ctypes.c_void_p()
    capi.call("sc_context_create", make_context(capi, capacities=(40, 200), storage=storage), ctypes.byref(handle))
    return handle


def chunk(capi, context, segment, index, rows):
    """Keys and values of a committed chunk, per layer."""
    found = np.empty((LAYERS, 2, rows, HEADS, DIM), np.float32)
    for layer in range(LAYERS):
        capi.call("sc_context_read", context, segment, index, layer, *found[layer])
    return found


# ---------------------------------------------------------------- truth
def modulated(x, shift, scale):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * (1 + scale) + shift


def linear(layer, x):
    weight, bias = (a.astype(np.float64) for a in layer)
    return x @ weight.T + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def joint(blocks, video, audio, modulation, rope, past):
    """One stream's tokens after all blocks, and (keys, values) of each layer.

    ``past``: what it reads, as (chunk, shift).
    """
    tokens, stored = [x.astype(np.float64) for x in (video, audio)], []
    rows = [len(x) for x in tokens]
    bounds = np.array([0, rows[0], sum(rows)])
    for layer, halves in enumerate(blocks):
        vectors = [modulation.astype(np.float64) + half["table"] for half in halves]
        projected = np.concatenate([
            linear(half["qkv"], modulated(x, *m[:2])) for half, x, m in zip(halves, tokens, vectors)])
        q, k, v = projected.reshape(-1, 3, HEADS, DIM).swapaxes(0, 1)
        q, k = (ready(x, (np.stack([half[name] for half in halves]), bounds, 1e-6), rope)
                for x, name in ((q, "q_norm"), (k, "k_norm")))
        keys, values = ([c[layer, i].astype(np.float64) for c, _ in past] + [own] for i, own in enumerate((k, v)))
        mixed, _ = attention(q, keys, values, [shift for _, shift in past] + [None])
        stored.append((k, v))
        for i, part in enumerate(np.split(mixed.reshape(-1, WIDTH), rows[:1])):
            half, m = halves[i], vectors[i]
            tokens[i] = tokens[i] + m[2] * linear(half["out"], part)
            inner = gelu(linear(half["expand"], modulated(tokens[i], *m[3:5])))
            tokens[i] = tokens[i] + m[5] * linear(half["contract"], inner)
    return *tokens, stored
