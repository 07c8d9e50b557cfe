"""Pictures become characters; what is no picture is named."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from streamchar_rt import ConfigError, OutputError
from streamchar_rt.picture import load_picture
from tests.stand_in import make_engine


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


def test_aspect_is_kept_and_the_rest_is_transparent(rng):
    color = rng.integers(0, 256, 3)
    for shape in ((60, 200), (200, 60), (100, 100), (31, 400 // 2), (256, 256)):
        image = np.broadcast_to(color.astype(np.uint8), (*shape, 3)).copy()
        out = load_picture(image, 256, 256)
        assert out.shape == (256, 256, 4) and out.dtype == np.uint8
        covered = out[..., 3] > 0
        height, width = covered.any(1).sum(), covered.any(0).sum()
        assert max(height, width) == 256
        assert width / height == pytest.approx(shape[1] / shape[0], rel=0.03)
        inside = out[covered & (out[..., 3] == 255)][:, :3].astype(int)
        assert np.abs(inside - color).max() <= 1


def test_transparent_colours_do_not_bleed():
    image = np.zeros((128, 128, 4), np.uint8)
    image[..., :3] = (0, 255, 0)  # what an editor left behind where nothing is seen
    image[32:96, 32:96] = (200, 0, 0, 255)
    out = load_picture(image, 256, 256)
    assert (out[out[..., 3] > 16][:, 1] <= 2).all()


def test_any_kind_of_picture(tmp_path, rng):
    pixels = rng.integers(0, 256, (64, 64, 4), np.uint8)
    pixels[..., 3] = 255
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    truth = load_picture(image, 64, 64)
    np.testing.assert_array_equal(truth, pixels)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), pixels, pixels[..., :3], pixels[..., :3] / 255.0):
        np.testing.assert_array_equal(load_picture(same, 64, 64), truth)
    grey = load_picture(pixels[..., 0], 64, 64)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == pixels[..., 0]).all()
    for mode in ("L", "P", "1", "LA", "CMYK", "RGB", "I;16"):
        assert load_picture(image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode), 64, 64).any()


def test_a_photo_that_lies_on_its_side_is_turned(tmp_path):
    image = Image.new("RGB", (64, 64), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 64, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    assert load_picture(tmp_path / "a.png", 64, 64)[-1, :, 0].min() > 200


@pytest.mark.parametrize(
    "wrong",
    [
        None, 5, "text", object(), [], np.zeros((0, 5, 3), np.uint8), np.zeros((20, 20, 2), np.uint8),
        np.zeros((20, 20, 3, 1), np.uint8), np.zeros((20, 20, 4), np.uint8), np.full((20, 20, 3), np.nan),
        np.full((20, 20, 3), np.inf), np.full((20, 20, 3), 2.0), np.full((20, 20, 3), -0.1),
        np.zeros((20, 20, 3), np.int64), np.zeros((8, 400, 3), np.uint8), np.zeros((20, 400, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (1, 1)), np.array(["a"]), {"a": 1},
    ],
)  # fmt: skip
def test_what_is_no_picture(engine, wrong):
    with pytest.raises(ConfigError) as error:
        engine.character(wrong)
    assert error.value.hint


def test_files_that_are_no_pictures(engine, tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "bomb.png").write_bytes(_huge_png())
    for name in ("a.txt", "empty.png", "half.png", "bomb.png", "missing.png", "."):
        with pytest.raises(ConfigError) as error:
            engine.character(tmp_path / name)
        assert error.value.hint
    with pytest.raises(ConfigError, match="dot, square"):
        engine.character("nobody")


def _huge_png() -> bytes:
    """A valid header that claims 100000x100000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_voices(engine):
    assert engine.characters() == ("dot", "square") and engine.voices() == ("low", "high")
    assert engine.character("dot").voice == "high" and engine.character("square").voice == "low"
    assert engine.character("dot", voice="low").voice == "low"
    assert engine.character(np.full((20, 20, 3), 200, np.uint8)).voice == "low"
    with pytest.raises(ConfigError, match="low, high"):
        engine.character("dot", voice="nobody")


def test_saved_characters_come_back(engine, tmp_path, rng):
    picture = rng.integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(picture).save(tmp_path / "ann.png")
    character = engine.character(tmp_path / "ann.png", voice="high")
    path = tmp_path / "ann.character"
    character.save(path)
    back = engine.character(path)
    assert (back.name, back.voice) == ("ann", "high")
    np.testing.assert_array_equal(back.picture, character.picture)
    np.testing.assert_array_equal(back.features.picture, character.features.picture)
    assert engine.character(str(path), voice="low").voice == "low"
    runs = []
    for one in (character, back):
        with engine.session(one, seed=3) as session:
            runs.append(session.step().video.tobytes())
    assert runs[0] == runs[1]
    with pytest.raises(OutputError):
        character.save(tmp_path / "ann.png" / "x")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ConfigError, match="ann.character"):
        engine.character(path)


def test_a_character_of_another_model_is_encoded_again(engine, tmp_path):
    (tmp_path / "other").mkdir()
    with make_engine(tmp_path / "other") as other:
        stranger = other.character("dot")
        stranger.save(tmp_path / "dot.character")
    assert stranger.model != engine.bundle.manifest["digest"]
    with pytest.raises(ConfigError, match="another model"):
        engine.session(stranger)
    again = engine.character(tmp_path / "dot.character")
    assert again.name == "dot" and again.model == engine.bundle.manifest["digest"]
    engine.session(again).step()
