"""Closed lids: what is painted over a reference picture, which picture a frame moves, and how the painter learns."""
import numpy as np
import pytest
import torch

from streamchar_rt import Engine, ops, pipeline
from streamchar_rt.bundle import open_bundle
from streamchar_rt.codecs.lids import LidConfig, LidNet, shown
from streamchar_rt.codecs.video import FRAMES, to_straight
from streamchar_rt.models import CharacterFeatures, Models
from streamchar_rt.picture import load_picture
from streamchar_rt.resident import Placement

from .small_decoder import Small

SMALL = LidConfig(top=16, left=8, height=24, width=40, channels=(6, 8, 8), levels=(0.5, 1.0))
ROWS, COLUMNS = slice(16, 40), slice(8, 48)


def random_net(config: LidConfig = SMALL) -> LidNet:
    net = LidNet(config).eval().requires_grad_(False)
    torch.nn.init.normal_(net.out.weight, std=0.5)
    return net


def premultiplied(height: int, width: int) -> torch.Tensor:
    picture = torch.rand(1, 4, height, width)
    picture[:, :3] *= picture[:, 3:]
    return picture


def test_only_the_place_of_eyes_is_painted(seeded):
    net, picture = random_net(), premultiplied(64, 56)
    painted = net(picture)
    assert painted.shape == (2, 4, 24, 40)
    assert torch.equal(painted[:, 3:], picture[:, 3:, ROWS, COLUMNS].expand(2, -1, -1, -1))      # what is covered
    assert (painted[:, :3] <= painted[:, 3:]).all() and (painted >= 0).all()
    whole = net.whole(picture, painted)
    for level, one in zip(painted, whole, strict=True):
        assert torch.equal(one[0, :, ROWS, COLUMNS], level)
        rest = one.clone()
        rest[:, :, ROWS, COLUMNS] = picture[:, :, ROWS, COLUMNS]
        assert torch.equal(rest, picture) and not torch.equal(one, picture)
    assert not torch.equal(*whole)


def test_the_nearest_picture_shows_the_lids(rng):
    levels = sorted(rng.uniform(0.2, 1, 3).tolist())
    closings = [0.0, 1.0, *rng.uniform(0, 1, 20)]
    for closing, which in zip(closings, shown(closings, levels), strict=True):
        distances = [abs(level - closing) for level in (0.0, *levels)]
        assert distances[which] == min(distances)
    assert shown([0.0], levels) == [0] and shown([1.0], levels) == [3]


@pytest.mark.parametrize("wrong", [{"top": 3}, {"height": -8}, {"levels": ()}, {"levels": (0.5, 1.5)}, {"levels": (1.0, 0.5)}])
def test_a_configuration_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError):
        LidConfig(**wrong)


@torch.inference_mode()
def test_each_frame_may_move_a_picture_of_its_own(rng):
    """The decoder and its packed kin: frame by frame what they draw of that picture alone."""
    small = Small(torch.Generator().manual_seed(int(rng.integers(1 << 30))), batch=2)
    pictures = [small.picture, *torch.rand(2, *small.picture.shape)]
    which = rng.integers(0, 3, 2 * FRAMES)
    around = small.latents, small.previous
    straight = lambda picture: to_straight(small.decoder(*around, picture, small.features).frames.flatten(0, 1))
    alone = torch.stack([straight(picture) for picture in pictures])
    mixed = straight(torch.cat([pictures[i] for i in which]))
    assert len({tuple(x.flatten()[:999].tolist()) for x in alone[:, 0]}) == 3
    for t, i in enumerate(which):
        assert (mixed[t].int() - alone[i, t].int()).abs().max() <= 1
    if not ops.PackedConv.pays():
        return
    packed = lambda chosen: small.packed(*around, small.picture, small.features, pictures=chosen)
    alone = torch.stack([packed([picture] * 2 * FRAMES) for picture in pictures])
    assert torch.equal(alone[0], small.packed(*around, small.picture, small.features))
    mixed = packed([pictures[i] for i in which])
    assert all(torch.equal(mixed[t], alone[i, t]) for t, i in enumerate(which))


@pytest.fixture(scope="module")
def made():
    """The shipped model both ways, on the host and as on a GPU."""
    bundle = open_bundle("mini")
    tensors = bundle.tensors()
    return [Models.from_parts(bundle.manifest, tensors, placement=placement)
            for placement in (None, Placement("cpu", torch.float32, graphs=False))]


@torch.inference_mode()
def blinking(models: Models, moves: np.ndarray, seed: int) -> np.ndarray:
    """A chunk whose eyes do that."""
    bundle = open_bundle("mini")
    names = sorted(bundle.characters)
    rgba = load_picture(bundle.path(bundle.characters[names[seed % len(names)]].file), models.width, models.height)
    state = pipeline.StreamState(models, pipeline.encode_character(models, rgba), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamchar_rt.planner.plan_eyes", lambda now, *_: (moves, now))
        return pipeline.generate_chunk(models, state, pipeline.Style(0, 0, 1), steps=1).video.astype(int)


def test_a_blink_is_shown_in_its_frames(made, rng):
    """They differ where eyes are; the other frames are, bit for bit, those of open eyes. Both ways alike."""
    seed, moves = int(rng.integers(1000)), np.zeros((16, 3), np.float32)
    begin = int(rng.integers(2, 12))
    moves[begin: begin + 3, 0] = 0.42, 1, 0.6
    clips = [[blinking(models, m, seed) for m in (moves, np.zeros_like(moves))] for models in made]
    (closed, still), config = clips[0], made[0].lids.config
    changed = np.abs(closed - still)
    assert [bool(frame.any()) for frame in changed] == [begin <= t < begin + 3 for t in range(16)]
    outside = changed.copy()
    outside[:, config.top - 24: config.top + config.height + 24, config.left - 24: config.left + config.width + 24] = 0
    assert changed.max() > 40 and outside.mean() < 0.05 * changed.mean()
    for host, device in zip(*clips):
        assert np.abs(host - device).mean() < 0.1


def test_latents_are_not_told_of_lids_that_a_picture_shows(made):
    moves = np.float32([[0, 0.3, 0.1], [0.14, 0, 0], [0.42, 0.1, 0], [1, -0.5, 0.2]])
    told, which = made[0].blinks(moves)
    assert which == [0, 0, 1, 4]
    assert (told[:, 1:] == moves[:, 1:]).all() and told[:, 0].tolist() == [0, pytest.approx(0.14), 0, 0]
    assert moves[3, 0] == 1
    plain = Models.__new__(Models)
    plain.lids = None
    same, which = plain.blinks(moves)
    assert same is moves and not any(which)


def test_a_saved_character_keeps_its_lids(tmp_path, monkeypatch):
    with Engine.load("mini") as engine:
        one = engine.character("nia")
        one.save(tmp_path / "nia.character")
        monkeypatch.setattr(LidNet, "forward", lambda *_: pytest.fail("painted again"))
        back = engine.character(tmp_path / "nia.character")
        assert torch.equal(back.features.lids, one.features.lids)
        assert all(torch.equal(a, b) for a, b in zip(back.features.pictures, one.features.pictures, strict=True))
        assert isinstance(back.features, CharacterFeatures) and len(back.features.pictures) == 5


# ---------------------------------------------------------------- training
def test_pairs_are_changed_alike(seeded):
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.train.lids import MARGIN, error, varied

    generator = torch.Generator().manual_seed(7)
    pictures = premultiplied(24 + 2 * MARGIN, 40 + 2 * MARGIN).repeat(16, 1, 1, 1)
    down = pictures.clone()
    down[:, :3, 20:28] *= 0.5
    a, b = varied(pictures, down, generator)
    assert a.shape == (16, 4, 24, 40) and len({tuple(x.flatten().tolist()) for x in a}) == 16
    same = (a - b).abs().amax(1) < 1e-6
    assert 0.4 < same.float().mean() < 0.8 and torch.equal(a[:, 3], b[:, 3])     # 8 of 40 rows, moved and blurred
    assert error(b, b, a) == 0 < error(a, b, a)


def test_training_learns_where_the_lids_are(tmp_path, monkeypatch):
    """A few seconds: the painted picture comes nearer to the drawn one than the open eyes are."""
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    import json
    import sys

    from tools.train import lids

    monkeypatch.setattr(lids, "HELD", 2)
    monkeypatch.setattr(sys, "argv", ["lids", "--out", str(tmp_path), "--minutes", "0.12", "--batch", "4"])
    lids.main()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["eval_share"] < 0.98 and (tmp_path / "lids.png").stat().st_size > 1000
    assert set(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["ema"]) == set(LidNet().state_dict())
