"""Training from a shipped bundle, and putting one together from another."""
import filecmp
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streamchar_rt.bundle import open_bundle
from tools.train.denoiser import Denoiser
from tools.train.loop import Loop, load_weights
from tools.train.shipped import MINI, bundle_weights, is_bundle, main, unpack


def arguments(**given):
    from argparse import Namespace
    return Namespace(**{"minutes": 1, "lr": 1e-3, "batch": 2, "device": "cpu", "threads": 1, "seed": 0, "init": None, **given})


def test_every_network_finds_its_weights_in_the_bundle():
    from streamchar_rt.codecs.vocoder import Vocoder
    from streamchar_rt.orchestrator.model import Orchestrator
    from streamchar_rt.codecs.eyes import EyeNet
    from streamchar_rt.codecs.lids import LidNet
    from tools.train.codec_networks import VideoCodec

    tensors = open_bundle("mini").tensors()
    for net, prefix in ((Denoiser(), ""), (Vocoder(), "vocoder."), (Orchestrator(), "orchestrator."), (EyeNet(), "eyes."),
                        (LidNet(), "lids.")):
        own = net.state_dict()
        found = bundle_weights(MINI, own)
        assert found.keys() == own.keys()
        assert all(torch.equal(found[k], tensors[prefix + k].float()) for k in own)
    own = VideoCodec().state_dict()
    found = bundle_weights(MINI, own)
    assert {k for k in own if k not in found} == {k for k in own if k.startswith("pose.")}       # training only
    assert torch.equal(found["decoder.out.weight"], tensors["video_decoder.out.weight"].float())


def test_a_training_starts_from_the_bundle(tmp_path):
    assert is_bundle(MINI) and not is_bundle(tmp_path)
    net = Denoiser()
    Loop(net, arguments(init=MINI, out=tmp_path))
    tensors = open_bundle("mini").tensors()
    assert all(torch.equal(value, tensors[name].float()) for name, value in net.state_dict().items())


def test_a_network_that_is_not_in_the_bundle_is_refused():
    with pytest.raises(ValueError, match="nothing in the bundle"):
        bundle_weights(MINI, {"a.weight": torch.zeros(3)})


def test_a_bundle_exported_from_itself_is_the_same(tmp_path):
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.train import export
    from tools.train.shipped import ENCODER_FILE

    out, encoder = tmp_path / "bundle", tmp_path / "encoder.safetensors"
    export.main(["--base", str(MINI), "--out", str(out), "--encoder-out", str(encoder)])
    assert encoder.read_bytes() == ENCODER_FILE.read_bytes()
    assert filecmp.cmp(out / "model.safetensors", MINI / "model.safetensors", shallow=False)
    assert export.encoder_file(MINI) == ENCODER_FILE != export.encoder_file(out)     # only its own replaces the shipped one
    with pytest.raises(SystemExit):
        export.main(["--out", str(out)])


def test_another_part_takes_the_place_of_the_bases_own(tmp_path, seeded):
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.train import export

    net = Denoiser()
    loop = Loop(net, arguments(init=MINI, out=tmp_path / "denoiser"))
    loop.ema["dit.audio_mean.bias"] = torch.randn(160)
    loop.save()
    out = tmp_path / "bundle"
    export.main(["--base", str(MINI), "--denoiser", str(tmp_path / "denoiser"), "--out", str(out),
                 "--encoder-out", str(tmp_path / "encoder.safetensors")])
    old, new = open_bundle("mini").tensors(), open_bundle(str(out)).tensors()
    assert torch.equal(new["dit.audio_mean.bias"], loop.ema["dit.audio_mean.bias"].half())
    assert all(torch.equal(new[k], old[k]) for k in old if k != "dit.audio_mean.bias")


def test_settings_are_the_base_s_unless_given(tmp_path):
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.train import export

    exported = lambda base, out, *more: export.main(
        ["--base", str(base), "--out", str(out), "--encoder-out", str(tmp_path / "encoder.safetensors"), *more])
    model = lambda folder: open_bundle(str(folder)).manifest["model"]
    first, second = tmp_path / "first", tmp_path / "second"
    exported(MINI, first)
    assert model(first) == model(MINI)
    exported(MINI, first, "--steps", "2", "--sampler", "0.25", "1", "--closing", "0.8")
    exported(first, second)
    for folder in (first, second):
        assert model(folder)["sampler"] == {"picture": 0.25, "sound": 1.0} and model(folder)["steps"] == 2
        assert model(folder)["eyes"]["closing"] == 0.8
    with pytest.raises(SystemExit):
        exported(MINI, second, "--sampler", "0.5", "-1")


def test_a_latent_s_frames_differ_more_with_a_gain(tmp_path, seeded):
    """The layer's own outputs: their mean over frames stays, their slope, curvature and cubic grow."""
    from tools.train import temporal_gain
    from tools.train.codec_networks import VideoCodec

    main(["--out", str(tmp_path)])
    plain = VideoCodec()
    plain.load_state_dict(load_weights(tmp_path / "codec"))
    temporal_gain.main(["--init", str(tmp_path / "codec"), "--out", str(tmp_path / "more"), "--gain", "0.6"])
    gained = VideoCodec()
    gained.load_state_dict(load_weights(tmp_path / "more"))
    x = torch.randn(2, plain.decoder.split.in_channels, 3, 5)
    with torch.no_grad():
        before, after = (net.decoder.split(x).unflatten(1, (4, -1)) for net in (plain, gained))
    orders = torch.tensor([[1.0, 1, 1, 1], [-3, -1, 1, 3], [1, -1, -1, 1], [-1, 3, -3, 1]])
    for order, gain in zip(orders, (1, 1.3, 1.6, 1.9)):
        a, b = (torch.einsum("f,bfchw->bchw", order, y) for y in (before, after))
        assert (b - gain * a).norm() < 1e-4 * a.norm()
    own = gained.state_dict()
    assert all(torch.equal(value, own[k]) for k, value in plain.state_dict().items() if "decoder.split." not in k)
    same = temporal_gain.enlarge(plain.state_dict(), 0.0)
    assert all(torch.allclose(value, same[k], atol=1e-7) for k, value in plain.state_dict().items())
    with pytest.raises(SystemExit):
        temporal_gain.main(["--init", str(tmp_path / "codec"), "--out", str(tmp_path / "more"), "--gain", "9"])


def test_a_bundle_becomes_checkpoint_folders(tmp_path, capsys):
    from streamchar_rt.codecs.vocoder import Vocoder
    from streamchar_rt.orchestrator.model import Orchestrator
    from tools.train.codec_networks import VideoCodec

    main(["--out", str(tmp_path)])
    nets = {"codec": VideoCodec(), "vocoder": Vocoder(), "orchestrator": Orchestrator(), "denoiser": Denoiser()}
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in nets]
    for name, net in nets.items():
        net.load_state_dict(load_weights(tmp_path / name))
    tensors = open_bundle("mini").tensors()
    assert torch.equal(nets["denoiser"].dit.video_in.weight, tensors["dit.video_in.weight"].float())
    assert torch.equal(nets["codec"].decoder.out.weight, tensors["video_decoder.out.weight"].float())


def test_a_bundle_without_its_encoder_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.train.shipped.ENCODER_FILE", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="codec, encoder"):
        unpack(MINI, tmp_path)


def test_weights_are_read_where_nothing_can_be_drawn(tmp_path):
    """A machine that trains on what was drawn elsewhere may lack skia, or what skia wants of the system."""
    code = ("import sys; sys.modules['skia'] = None; from tools.train.shipped import main; "
            f"main(['--out', {str(tmp_path)!r}])")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=120)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec", "denoiser", "orchestrator", "vocoder"]
