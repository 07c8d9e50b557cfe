"""The video decoder of libstreamchar against its ops one by one, part motion against float64, wrong calls of both."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from .capi_problems import error, make_conv
from .test_capi_pictures import apply, threads

LOCAL, REACH = 6.0, 20.0
MOTION = ("read", "first", "first_bias", "second", "second_bias", "steady")


def random_motion(capi, rng, channels, frames, inputs=7, hidden=9, parts=3):
    """The params, whose arrays are the truth too."""
    shapes = [(frames * inputs, channels * 4), (hidden, inputs), (hidden,), (parts * 6, hidden), (parts * 6,),
              (parts * 6, inputs)]
    weights = {name: np.float32(0.3) * rng.standard_normal(shape, dtype=np.float32) for name, shape in zip(MOTION, shapes)}
    params = capi.make("sc_part_motion_params", channels=channels, frames=frames, inputs=inputs, hidden=hidden,
                       parts=parts, reach=REACH, **weights)
    params.keep = weights
    return params


def make_motion(capi, params):
    handle = ctypes.c_void_p()
    capi.call("sc_part_motion_create", params, ctypes.byref(handle))
    return handle


class Decoder:
    """Random layers and what is made of them."""

    def __init__(self, capi, rng, channels=5, widths=(13, 9, 6), trunk=2, frames=4, parts=3):
        self.capi, self.channels, self.frames, self.parts = capi, channels, frames, parts

        def conv(inputs, outputs, size, frames=1, shuffle=1):
            shape = frames, shuffle, shuffle, outputs, inputs, size, size
            weight = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(inputs * size * size))
            return make_conv(capi, weight, rng.standard_normal(shape[:4], dtype=np.float32))

        self.widths = a, b, c = widths
        pair = lambda width: (conv(width, width, 3), conv(width, width, 3))
        self.inputs, self.trunk, self.split = conv(2 * channels, a, 3), [pair(a) for _ in range(trunk)], conv(a, b, 1, frames, 2)
        self.middle, self.flow, self.up, self.warped = pair(b), conv(b, 4 * (parts + 2), 3), conv(b, c, 1, 1, 2), conv(64, c, 1)
        self.fine, self.out = pair(c), conv(c, 80, 3)
        self.motion = make_motion(capi, random_motion(capi, rng, channels - 1, frames, parts=parts))
        self.rng = rng

    def params(self):
        capi, struct = self.capi, lambda pair: self.capi.sc_conv_pair(*(handle.value for handle in pair))
        trunk = (capi.sc_conv_pair * max(1, len(self.trunk)))(*map(struct, self.trunk))
        params = capi.make("sc_video_decoder_params", trunk_count=len(self.trunk), trunk=ctypes.addressof(trunk), local=LOCAL,
                           middle=struct(self.middle), fine=struct(self.fine),
                           **{name: getattr(self, name) for name in ("inputs", "split", "flow", "up", "warped", "out", "motion")})
        params.keep = trunk
        return params

    def make(self):
        handle = ctypes.c_void_p()
        self.capi.call("sc_video_decoder_create", self.params(), ctypes.byref(handle))
        return handle

    def convolutions(self):
        pairs = [*self.trunk, self.middle, self.fine]
        return [self.inputs, self.split, self.flow, self.up, self.warped, self.out, *(conv for pair in pairs for conv in pair)]

    def destroy(self):
        for conv in self.convolutions():
            self.capi.sc_conv_destroy(conv)
        self.capi.sc_part_motion_destroy(self.motion)

    def problem(self, height, width):
        """The character's arrays, and the latents."""
        made = lambda *shape: self.rng.standard_normal(shape, dtype=np.float32)
        a, b, c = self.widths
        picture = np.pad(self.rng.random((16 * height, 16 * width, 4), dtype=np.float32), ((2, 2), (2, 2), (0, 0)))
        character = {"coarse": made(height, width, a), "middle": made(2 * height, 2 * width, b),
                     "fine": made(4 * height, 4 * width, c), "picture": picture}
        return character, made(2, self.channels, height, width)

    def one_by_one(self, character, latents):
        """Every op of all frames at once."""
        capi, frames, (_, height, width) = self.capi, self.frames, latents[0].shape
        a, b, c = self.widths

        def conv(handle, inputs, channels, frames=1, shuffle=1, **options):
            batch, rows, columns, _ = inputs[0].shape
            out = np.empty((batch * frames, rows * shuffle, columns * shuffle, channels), np.float32)
            return apply(capi, handle, (batch, rows, columns), inputs, out, **options)

        def residual(pair, x):
            y = conv(pair[0], [x], x.shape[-1], silu=1)
            return conv(pair[1], [y], x.shape[-1], silu=1, added=x, added_stride=x[0].size)

        x = conv(self.inputs, [np.ascontiguousarray(l.transpose(1, 2, 0))[None] for l in latents], a, added=character["coarse"])
        for pair in self.trunk:
            x = residual(pair, x)
        x = residual(self.middle, conv(self.split, [x], b, frames, 2, added=character["middle"]))
        places, motion = conv(self.flow, [x], 4 * (self.parts + 2), silu=1), np.empty((frames, self.parts, 2, 3), np.float32)
        capi.call("sc_part_motion_apply", self.motion, latents[0], height, width, motion)
        flow, warped = (np.empty((frames, 4 * height, 4 * width, n), np.float32) for n in (2, 64))
        capi.call("sc_picture_warp", capi.make(
            "sc_picture_warp_call", frames=frames, height=4 * height, width=4 * width, parts=self.parts, local=LOCAL,
            places=places, motion=motion, picture=character["picture"], flow=flow, warped=warped))
        y = conv(self.up, [x], c, 1, 2, added=character["fine"])
        y = residual(self.fine, conv(self.warped, [warped], c, added=y, added_stride=y[0].size))
        drawn, out = conv(self.out, [y], 80, silu=1), np.empty((frames, 16 * height, 16 * width, 4), np.uint8)
        capi.call("sc_picture_blend", capi.make(
            "sc_picture_blend_call", frames=frames, height=4 * height, width=4 * width, drawn=drawn, warped=warped, out=out))
        return out


def make_drawing(capi, decoder, character, height, width):
    handle = ctypes.c_void_p()
    params = capi.make("sc_latent_drawing_params", height=height, width=width, **character)
    capi.call("sc_latent_drawing_create", decoder, params, ctypes.byref(handle))
    return handle


def draw(capi, drawing, latents, wanted, order):
    out = np.full_like(wanted, 77)
    capi.call("sc_latent_drawing_begin", drawing, *latents)
    for i in order:
        capi.call("sc_latent_drawing_frame", drawing, i, out[i])
    return out


def test_part_motion_equals_float64(capi, rng):
    for _ in range(5):
        channels, frames, extra, height, width = (int(n) for n in rng.integers(1, (6, 6, 3, 9, 9)))
        params = random_motion(capi, rng, channels, frames, *(int(n) for n in rng.integers(1, (12, 20, 9))))
        latent = rng.standard_normal((channels + extra, 2 * height, 2 * width), dtype=np.float32)
        read, first, first_bias, second, second_bias, steady = (params.keep[name].astype(np.float64) for name in MOTION)
        cells = latent[:channels].astype(np.float64).reshape(channels, height, 2, width, 2).mean((1, 3)).ravel()
        fields = (read @ cells).reshape(frames, -1)
        inner = fields @ first.T + first_bias
        wanted = REACH * ((inner / (1 + np.exp(-inner))) @ second.T + second_bias + fields @ steady.T)
        handle, out = make_motion(capi, params), np.full((frames, params.parts, 2, 3), np.nan, np.float32)
        capi.call("sc_part_motion_apply", handle, latent, 2 * height, 2 * width, out)
        assert error(out.reshape(wanted.shape), wanted) < 1e-5
        capi.sc_part_motion_destroy(handle)


@pytest.mark.parametrize("height,width,channels,widths,trunk,frames,parts", [
    (2, 2, 2, (1, 1, 1), 0, 4, 1), (4, 6, 5, (13, 9, 6), 2, 4, 3), (6, 4, 12, (33, 17, 20), 1, 3, 8)])
def test_gives_the_bytes_of_the_ops_one_by_one(capi, rng, height, width, channels, widths, trunk, frames, parts):
    layers = Decoder(capi, rng, channels, widths, trunk, frames, parts)
    cases = [(*layers.problem(h, w), h, w) for h, w in ((height, width), (2, 4), (height, width))]
    wanted = [layers.one_by_one(character, latents) for character, latents, _, _ in cases]
    decoder = layers.make()
    layers.destroy()                                          # the decoder lives on
    drawings = [make_drawing(capi, decoder, character, h, w) for character, _, h, w in cases]
    capi.sc_video_decoder_destroy(decoder)                    # and so do its drawings
    for _ in range(2):
        for count, drawing, (_, latents, _, _), want in zip((1, 2, 3), drawings, cases, wanted):
            with threads(capi, count):
                got = draw(capi, drawing, latents, want, rng.permutation(frames).tolist())
            assert got.tobytes() == want.tobytes()
    for drawing in drawings:
        capi.sc_latent_drawing_destroy(drawing)


def test_a_drawing_that_ends_early_leaves_its_memory_to_the_next_one(capi, rng):
    layers = Decoder(capi, rng)
    decoder, (character, latents) = layers.make(), layers.problem(4, 4)
    wanted = layers.one_by_one(character, latents)
    for frames in ([], [2], [0, 1, 2, 3]):
        drawing = make_drawing(capi, decoder, character, 4, 4)
        got = draw(capi, drawing, latents, wanted, frames)
        assert (got[frames] == wanted[frames]).all() and (np.delete(got, frames, 0) == 77).all()
        capi.sc_latent_drawing_destroy(drawing)
    layers.destroy()
    capi.sc_video_decoder_destroy(decoder)


# ---------------------------------------------------------------- wrong calls
def test_wrong_motion_is_refused(capi, rng):
    invalid, handle = capi.SC_E_INVALID_ARGUMENT, ctypes.c_void_p(77)
    params = random_motion(capi, rng, 2, 3)
    create = lambda: capi.refuses(invalid, "sc_part_motion_create", params, ctypes.byref(handle))
    wrong = [(name, value) for name in ("channels", "frames", "inputs", "hidden", "parts") for value in (-1, 0, 2**31 - 1)]
    wrong += [(name, None) for name in MOTION] + [("reach", float("inf")), ("parts", 33)]
    for field, value in wrong:
        kept = getattr(params, field)
        setattr(params, field, value)
        create()
        setattr(params, field, kept)
    for name in MOTION:
        params.keep[name].flat[2] = np.nan
        assert f"{name}[2]" in create()
        params.keep[name].flat[2] = 0
    params.struct_size -= 1
    capi.refuses(capi.SC_E_ABI_MISMATCH, "sc_part_motion_create", params, ctypes.byref(handle))
    params.struct_size += 1
    capi.refuses(invalid, "sc_part_motion_create", params, None)
    capi.refuses(invalid, "sc_part_motion_create", None, ctypes.byref(handle))
    assert handle.value == 77
    motion, latent, out = make_motion(capi, params), np.zeros((2, 4, 4), np.float32), np.full((3, 3, 2, 3), np.nan, np.float32)
    for arguments in [(None, latent, 4, 4, out), (motion, None, 4, 4, out), (motion, latent, 4, 4, None),
                      *[(motion, latent, h, w, out) for h, w in ((0, 4), (3, 4), (4, 1), (-2, 4), (1 << 13, 1 << 13))]]:
        capi.refuses(invalid, "sc_part_motion_apply", *arguments)
    assert np.isnan(out).all()
    capi.sc_part_motion_destroy(motion)
    capi.sc_part_motion_destroy(None)


def test_wrong_decoders_and_drawings_are_refused(capi, rng):
    invalid, handle = capi.SC_E_INVALID_ARGUMENT, ctypes.c_void_p(77)
    layers, other = Decoder(capi, rng), make_conv(capi, np.ones((1, 1, 1, 7, 7, 1, 1), np.float32))
    params = layers.params()
    create = lambda status=invalid: capi.refuses(status, "sc_video_decoder_create", params, ctypes.byref(handle))
    names = ("inputs", "split", "flow", "up", "warped", "out")
    for field in (*names, "middle.first", "fine.second", "motion"):
        *outer, name = field.split(".")
        struct = getattr(params, outer[0]) if outer else params
        kept = getattr(struct, name)
        for value in (None, other.value, layers.motion.value if name != "motion" else layers.inputs.value):
            setattr(struct, name, value)
            create()
        setattr(struct, name, kept)
    kept, params.keep[1].first = params.keep[1].first, other.value
    assert "trunk[1].first is 7 to 7 channels" in create()
    params.keep[1].first = kept
    for field, value in (("trunk", None), ("trunk_count", -1), ("trunk_count", 4097), ("local", float("nan"))):
        kept = getattr(params, field)
        setattr(params, field, value)
        create()
        setattr(params, field, kept)
    wide = make_motion(capi, random_motion(capi, rng, layers.channels + 1, layers.frames))
    kept, params.motion = params.motion, wide
    assert "two latents" in create()
    params.motion = kept
    params.struct_size -= 1
    create(capi.SC_E_ABI_MISMATCH)
    params.struct_size += 1
    capi.refuses(invalid, "sc_video_decoder_create", params, None)
    capi.refuses(invalid, "sc_video_decoder_create", None, ctypes.byref(handle))
    assert handle.value == 77

    decoder, (character, latents) = layers.make(), layers.problem(4, 2)
    drawing_params = capi.make("sc_latent_drawing_params", height=4, width=2, **character)
    wrong = [(name, None) for name in character] + [(name, value) for name in ("height", "width") for value in (-2, 0, 3, 2**31 - 2)]
    for field, value in [*wrong, ("width", 1 << 16), ("height", 1 << 18)]:
        kept = getattr(drawing_params, field)
        setattr(drawing_params, field, value)
        capi.refuses(invalid, "sc_latent_drawing_create", decoder, drawing_params, ctypes.byref(handle))
        setattr(drawing_params, field, kept)
    capi.refuses(invalid, "sc_latent_drawing_create", decoder, drawing_params, None)
    capi.refuses(invalid, "sc_latent_drawing_create", None, drawing_params, ctypes.byref(handle))
    assert "sc_video_decoder" in capi.refuses(invalid, "sc_latent_drawing_create", other, drawing_params, ctypes.byref(handle))
    assert handle.value == 77
    drawing, out = make_drawing(capi, decoder, character, 4, 2), np.full((64, 32, 4), 77, np.uint8)
    frame = "sc_latent_drawing_frame"
    assert "begin" in capi.refuses(capi.SC_E_INVALID_STATE, frame, drawing, 0, out)
    for arguments in ((drawing, None, latents[1]), (drawing, latents[0], None), (None, *latents), (decoder, *latents)):
        capi.refuses(invalid, "sc_latent_drawing_begin", *arguments)
    capi.call("sc_latent_drawing_begin", drawing, *latents)
    for arguments in ((drawing, -1, out), (drawing, layers.frames, out), (drawing, 1, None), (None, 1, out)):
        capi.refuses(invalid, frame, *arguments)
    assert (out == 77).all()
    capi.call(frame, drawing, 1, out)
    wanted = layers.one_by_one(character, latents)[1]
    assert (out == wanted).all()
    capi.refuses(capi.SC_E_INVALID_STATE, frame, drawing, 1, out)
    for kind, one in (("latent_drawing", drawing), ("video_decoder", decoder), ("part_motion", wide), ("conv", other)):
        getattr(capi, f"sc_{kind}_destroy")(one)
        getattr(capi, f"sc_{kind}_destroy")(None)
    layers.destroy()
