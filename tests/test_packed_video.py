"""The packed video decoder against the float32 one, and where the engine takes it."""
from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from streamchar_rt import Engine, ops
from streamchar_rt.bundle import open_bundle
from streamchar_rt.errors import ConfigError
from streamchar_rt.models import Models, encode_character
from streamchar_rt.picture import load_picture

from .native_support import fresh_generator, linear_isa, native  # noqa: F401
from .small_decoder import Small


def premultiplied(straight: torch.Tensor) -> torch.Tensor:
    x = straight.double()
    return torch.cat([x[..., :3] * x[..., 3:] / 255, x[..., 3:]], -1)


def worst_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the worst of frames, uint8 (F, H, W, 4) with straight alpha: what is not covered has no colour."""
    error = (premultiplied(a) - premultiplied(b)).square().mean((1, 2, 3)).max()
    return float(10 * torch.log10(255 ** 2 / error.clamp(min=1e-9)))


@torch.inference_mode()
def test_it_draws_what_the_decoder_draws(linear_isa):
    small = Small(fresh_generator())
    exact, frames = small.exact(), small.frames()
    assert frames.shape == exact.shape == (12, 64, 96, 4) and frames.dtype is torch.uint8
    assert float(exact.float().std()) > 20
    assert worst_psnr(frames, exact) > 28       # of noise, which hides nothing: 35 to 45; see below for pictures


@torch.inference_mode()
def test_frames_depend_on_their_latent_alone(linear_isa):
    small, before = Small(fresh_generator()), native.threads()
    try:
        ops.set_num_threads(1)
        whole = small.frames()
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            assert torch.equal(small.frames(), whole)
            assert torch.equal(small.frames(slice(1, 2)), whole[4:8])
    finally:
        ops.set_num_threads(before)


class Stop(Exception):
    pass


@torch.inference_mode()
def test_it_can_be_stopped_between_layers():
    small, calls = Small(fresh_generator(), batch=2), []
    whole = small.frames(between=lambda: calls.append(1))
    assert len(calls) == 2 * 5      # before each frame, and after the last one of a latent
    for pieces in range(len(calls)):
        left = iter(range(pieces))

        def stop() -> None:
            if next(left, None) is None:
                raise Stop

        with pytest.raises(Stop):
            small.frames(between=stop)
        assert next(left, None) is None
        assert torch.equal(small.frames(), whole)


@torch.inference_mode()
def test_it_draws_where_it_is_told_to():
    small = Small(fresh_generator(), batch=2)
    wanted, room = small.frames(), torch.zeros(12, 64, 96, 4, dtype=torch.uint8)
    assert small.frames(out=room[2:10]) is not None and torch.equal(room[2:10], wanted)
    assert not room[:2].any() and not room[10:].any()
    for out in (room, room[:8, 1:], room[:8].float(), room[:8].transpose(1, 2).contiguous().transpose(1, 2)):
        with pytest.raises(ConfigError):
            small.frames(out=out)


@torch.inference_mode()
def test_latents_of_any_layout_and_type_are_drawn_alike():
    small = Small(fresh_generator())
    wanted = small.frames()
    small.latents, small.previous = small.latents.contiguous(memory_format=torch.channels_last), small.previous.double()
    assert torch.equal(small.frames(), wanted)


@torch.inference_mode()
def test_what_a_character_adds_goes_with_it():
    small = Small(fresh_generator())
    first = small.frames()
    other = torch.rand_like(small.picture)
    changed = small.packed(small.latents, small.previous, other, small.features)
    assert not torch.equal(changed, first) and torch.equal(small.frames(), first)
    assert len(small.packed._known) == 2
    del other
    gc.collect()
    assert len(small.packed._known) == 1


@pytest.fixture(scope="module")
def shipped() -> tuple[Models, Models]:
    """mini's models with the decoder in float32, and packed."""
    bundle = open_bundle("mini")
    make = lambda packed: Models.from_parts(bundle.manifest, bundle.tensors(), packed_pictures=packed)
    return make(False), make(True)


@torch.inference_mode()
def test_the_shipped_model_draws_what_cannot_be_told_apart(shipped):
    """Latents near the training data's mean, with more movement than speech has."""
    exact, packed = shipped
    bundle, generator = open_bundle("mini"), fresh_generator()
    shape = 4, exact.video_decoder.config.latent_channels, exact.height // 16, exact.width // 16
    for name in bundle.characters:
        picture = load_picture(bundle.path(bundle.characters[name].file), exact.width, exact.height)
        characters = [encode_character(models, picture) for models in shipped]
        cells = torch.randn(*shape[:2], 2, 2, generator=generator).repeat(1, 1, shape[2] // 2, shape[3] // 2)
        drawn = 0.5 * torch.randn(shape, generator=generator) + 0.5 * cells
        latents = (drawn * exact.latent_std[0] + exact.latent_mean[0])
        previous = torch.cat([latents[:1], latents[:-1]])
        frames = [models.draw(latents, previous, character) for models, character in zip(shipped, characters)]
        assert worst_psnr(*frames) > 45


def test_the_packed_decoder_is_smaller(shipped):
    exact, packed = (sum(p.nbytes for p in models.video_decoder.parameters()) for models in shipped)
    assert packed < 0.05 * exact and shipped[1].packed_decoder.layers.nbytes < 0.3 * exact


@pytest.mark.parametrize("dtype,kernels,pictures", [
    ("auto", "auto", "int8"), ("int8", "auto", "int8"), ("fp32", "auto", "fp32"), ("bf16", "auto", "fp32"),
    ("auto", "reference", "fp32")])
def test_the_engine_takes_it_where_it_pays(linear_isa, dtype, kernels, pictures):
    if linear_isa == "amx":
        pictures = "bf16" if (dtype, kernels) in (("auto", "auto"), ("int8", "auto"), ("bf16", "auto")) else "fp32"
    elif not ops.PackedConv.pays():
        pictures = "fp32"
    with Engine.load("mini", dtype=dtype, kernels=kernels) as engine:
        assert engine.picture_dtype == pictures
        assert (engine.models.packed_decoder is not None) == (pictures == "int8")


@pytest.mark.skipif(not ops.PackedConv.pays(), reason="portable code")
def test_a_session_shows_the_same_pictures_on_any_number_of_threads(monkeypatch):
    """And, of the same latents, those of the exact decoder; the latents of an exact denoiser differ by more."""
    clips = []
    for threads, dtype, packed in ((1, "auto", True), (2, "auto", True), (1, "auto", False), (1, "fp32", False)):
        if not packed:
            monkeypatch.setattr("streamchar_rt.engine._packed_pictures", lambda config: False)
        with Engine.load("mini", threads=threads, dtype=dtype) as engine:
            with engine.session(engine.characters()[0], seed=4) as session:
                session.say("Hello there, and welcome.")
                clips.append(torch.from_numpy(np.concatenate([session.step().video for _ in range(3)])))
    assert torch.equal(clips[0], clips[1])
    assert worst_psnr(clips[0], clips[2]) > 50
    assert worst_psnr(clips[0], clips[3]) > 40
