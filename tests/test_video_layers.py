"""VideoLayers against the same ops one by one, and PartMotion against float64."""
from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.codecs.video import MotionCode
from streamchar_rt.errors import ConfigError

from .native_support import fresh_generator, linear_isa, native, relative_error  # noqa: F401
from .video_support import (drawn, op_by_op, random_character, random_latents, random_motion, random_motion_weights,
                            random_parts)

# Rows and columns of a latent, its channels, widths, blocks of the trunk, frames, parts.
SHAPES = [(2, 2, 4, (1, 1, 1), 0, 4, 1), (4, 6, 5, (13, 9, 6), 2, 4, 3), (6, 2, 12, (33, 17, 20), 1, 3, 8),
          (10, 4, 7, (24, 20, 10), 3, 1, 5), (16, 16, 12, (160, 80, 40), 3, 4, 8)]


@pytest.fixture
def threads():
    before = native.threads()
    yield ops.set_num_threads
    ops.set_num_threads(before)


@pytest.mark.parametrize("height,width,channels,widths,trunk,frames,parts", SHAPES)
def test_gives_the_bits_of_the_ops_one_by_one(linear_isa, threads, height, width, channels, widths, trunk, frames, parts):
    generator = fresh_generator()
    given = random_parts(generator, channels, widths, trunk, frames, parts)
    character, latents = random_character(generator, given, height, width), random_latents(generator, given, height, width)
    wanted, layers = op_by_op(given, latents, character), ops.VideoLayers(**given)
    assert wanted.shape == (frames, 16 * height, 16 * width, 4) and float(wanted.float().std()) > 10
    for count in (1, 2, 5):
        threads(count)
        assert torch.equal(drawn(layers, latents, character), wanted)


def test_a_drawing_that_ends_early_leaves_its_buffers_to_the_next_one():
    """Other sizes in between, any order of frames, and two drawings at once."""
    generator = fresh_generator()
    given = random_parts(generator)
    layers, cases = ops.VideoLayers(**given), []
    for height, width in ((4, 6), (6, 8), (2, 2)):
        character, latents = random_character(generator, given, height, width), random_latents(generator, given, height, width)
        cases.append((character, latents, op_by_op(given, latents, character)))
    for character, latents, wanted in cases + cases[::-1]:
        assert torch.equal(drawn(layers, latents, character), wanted)
        layers.drawing(character)
        stopped = layers.drawing(character)
        stopped.begin(*latents[::-1])
        stopped.frame(2, torch.empty_like(wanted))
        del stopped
        assert torch.equal(drawn(layers, latents, character), wanted)
    (character, latents, wanted), (other_character, other_latents, other_wanted) = cases[:2]
    one, other = layers.drawing(character), layers.drawing(other_character)
    frames, other_frames = torch.empty_like(wanted), torch.empty_like(other_wanted)
    one.begin(*latents), other.begin(*other_latents)
    for i in (3, 0, 2, 1):
        one.frame(i, frames), other.frame(3 - i, other_frames)
    assert torch.equal(frames, wanted) and torch.equal(other_frames, other_wanted)
    one.begin(*latents)     # again, by the same drawing
    one.frame(1, frames.zero_())
    assert torch.equal(frames[1], wanted[1]) and not frames[::2].any()


def test_threads_may_draw_at_once():
    generator = fresh_generator()
    given = random_parts(generator)
    layers, wrong, cases = ops.VideoLayers(**given), [], []
    for _ in range(4):
        character, latents = random_character(generator, given, 4, 4), random_latents(generator, given, 4, 4)
        cases.append((latents, character, op_by_op(given, latents, character)))

    def work(latents, character, wanted):
        for _ in range(20):
            if not torch.equal(drawn(layers, latents, character), wanted):
                wrong.append(1)

    running = [threading.Thread(target=work, args=case) for case in cases]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


def test_layers_and_drawings_outlive_what_made_them():
    generator = fresh_generator()
    given = random_parts(generator)
    character, latents = random_character(generator, given, 4, 4), random_latents(generator, given, 4, 4)
    wanted, layers = op_by_op(given, latents, character), ops.VideoLayers(**given)
    del given
    drawing = layers.drawing(character)
    del layers, character
    drawing.begin(*latents)
    frames = torch.empty_like(wanted)
    for i in range(4):
        drawing.frame(i, frames)
    assert torch.equal(frames, wanted)


def test_bad_layers_and_drawings_are_typed_errors():
    generator = fresh_generator()
    given = random_parts(generator)
    layers, character = ops.VideoLayers(**given), random_character(generator, given, 4, 6)
    latent, previous = random_latents(generator, given, 4, 6)
    begun, frames = layers.drawing(character), torch.empty(4, 64, 96, 4, dtype=torch.uint8)
    begun.begin(latent, previous)
    begun.frame(0, frames)
    other = lambda **parts: lambda: ops.VideoLayers(**{**given, **parts})
    known = lambda **parts: lambda: layers.drawing(ops.KnownCharacter(**{**vars(character), **parts}))
    odd = random_character(generator, given, 3, 4)
    bad_calls = [
        other(inputs=ops.PackedConv(torch.zeros(13, 9, 3, 3))), other(inputs=ops.PackedConv(torch.zeros(13, 6, 3, 3))),
        other(trunk=[given["middle"]]), other(split=given["up"]), other(middle=given["fine"]), other(flow=given["out"]),
        other(up=given["flow"]), other(warped=given["fine"][0]), other(fine=given["middle"]), other(out=given["flow"]),
        other(motion=random_motion(generator, frames=3)), other(motion=random_motion(generator, parts=4)),
        known(coarse=character.coarse[:, :3]), known(middle=character.middle.double()), known(fine=character.fine[0]),
        known(coarse=character.coarse.transpose(1, 2)), known(picture=character.picture[2:-2, 2:-2]),
        lambda: layers.drawing(odd),
        lambda: begun.begin(latent[None], previous), lambda: begun.begin(latent, previous[:, :2]),
        lambda: begun.begin(latent.double(), previous), lambda: begun.begin(latent.mT, previous.mT),
        lambda: begun.frame(1, frames[:3]), lambda: begun.frame(1, frames.float()),
        lambda: begun.frame(0, frames), lambda: begun.frame(4, frames), lambda: begun.frame(-1, frames),
        lambda: layers.drawing(character).frame(0, frames),
    ]
    for i, call in enumerate(bad_calls):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint, i
    for i in (1, 2, 3):
        begun.frame(i, frames)
    assert torch.equal(frames, op_by_op(given, [latent, previous], character))


def test_memory_is_that_of_the_convolutions():
    given = random_parts(fresh_generator())
    flat = [conv for block in (*given["trunk"], given["middle"], given["fine"]) for conv in block]
    assert ops.VideoLayers(**given).nbytes == sum(
        conv.nbytes for conv in (*flat, *(given[name] for name in ("inputs", "split", "flow", "up", "warped", "out"))))


# ---------------------------------------------------------------- part_motion
@pytest.mark.parametrize("channels,frames,inputs,hidden,parts,height,width", [
    (4, 4, 7, 64, 8, 16, 16), (1, 1, 1, 1, 1, 2, 2), (3, 5, 6, 11, 4, 4, 10), (2, 4, 9, 3, 17, 22, 2)])
def test_part_motion_equals_float64(channels, frames, inputs, hidden, parts, height, width):
    generator = fresh_generator()
    read, layers = random_motion_weights(generator, channels, frames, inputs, hidden, parts)
    latent = torch.randn(channels + 2, height, width, generator=generator)
    motion = ops.PartMotion(read, *layers, 60.0)(latent)
    first, second, steady = (layer.double() for layer in layers)
    code = torch.stack([latent[c, y::2, x::2].double().mean() for c in range(channels) for y in (0, 1) for x in (0, 1)])
    fields = torch.einsum("fik,k->fi", read.double(), code)
    wanted = 60 * (second(F.silu(first(fields))) + steady(fields)).detach().reshape(frames, parts, 2, 3)
    assert motion.shape == wanted.shape and motion.dtype is torch.float32
    assert relative_error(motion, wanted) < 1e-6


def test_part_motion_reads_what_the_code_says():
    generator = fresh_generator()
    code, poses = MotionCode(), torch.randn(1, 4, 21, generator=generator)
    latent = torch.cat([code.write(poses, 6, 4), torch.randn(1, 2, 6, 4, generator=generator)], 1)
    read = code.read(torch.eye(16).unflatten(1, (4, 2, 2))).permute(1, 2, 0)
    _, (first, second, steady) = random_motion_weights(generator, 4, 4, 7, 5, 2)
    motion = ops.PartMotion(read, first, second, steady, 1.0)(latent[0])
    fields = code.double().read(latent.double()[:, :4])[0]
    first, second, steady = (layer.double() for layer in (first, second, steady))
    wanted = (second(F.silu(first(fields))) + steady(fields)).detach()
    assert relative_error(motion.flatten(1), wanted) < 2e-6


def test_bad_part_motion_is_a_typed_error():
    generator = fresh_generator()
    read, (first, second, steady) = random_motion_weights(generator, 2, 4, 7, 5, 3)
    motion = ops.PartMotion(read, first, second, steady, 1.0)
    bad_calls = [
        lambda: ops.PartMotion(read[0], first, second, steady, 1.0),
        lambda: ops.PartMotion(read[..., :7], first, second, steady, 1.0),
        lambda: ops.PartMotion(read[:, :6], first, second, steady, 1.0),
        lambda: ops.PartMotion(read, second, first, steady, 1.0),
        lambda: ops.PartMotion(read, first, second, first, 1.0),
        lambda: ops.PartMotion(read, first, torch.nn.Linear(5, 17), torch.nn.Linear(7, 17, bias=False), 1.0),
        lambda: motion(torch.zeros(1, 4, 4)), lambda: motion(torch.zeros(2, 3, 4)), lambda: motion(torch.zeros(2, 4, 0)),
        lambda: motion(torch.zeros(2, 4, 4).double()), lambda: motion(torch.zeros(2, 4, 6).mT),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint
