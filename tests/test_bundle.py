"""Bundles: what is written is read back, and whatever is wrong with one is named."""
from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from streamchar_rt import BundleError, ConfigError, DeviceMemoryError, Engine, EngineConfig, UnsupportedError
from streamchar_rt.bundle import FORMAT_VERSION, MANIFEST, SHIPPED, WEIGHTS, find_bundle, open_bundle, save_bundle, shipped_models
from tests.stand_in import MANIFEST as FACTS
from tests.stand_in import make_bundle


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "bundle")


def rewrite(folder, change):
    """Edits the manifest and makes its digest fit, as another exporter would."""
    from streamchar_rt.bundle import _digest

    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_round_trip(tmp_path, seeded):
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).double(), "n": torch.tensor([1, 2])}
    extra = tmp_path / "words.txt"
    extra.write_bytes(b"words")
    save_bundle(tmp_path / "b", {**FACTS, "characters": []}, tensors, {"text/words.txt": extra})
    bundle = open_bundle(tmp_path / "b")
    bundle.verify()
    back = bundle.tensors()
    assert back["n"].dtype is torch.int64 and torch.equal(back["n"], tensors["n"])
    for name in "ab":
        assert back[name].dtype is torch.float16
        np.testing.assert_allclose(back[name].double(), tensors[name].double(), rtol=2**-10, atol=1e-7)
    assert bundle.path("text/words.txt").read_bytes() == b"words"
    assert bundle.weight_elements() == 3 * 5 + 7 + 2
    assert bundle.info.fps == 25 and bundle.voices == ("low", "high")
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in bundle.folder.rglob("*") if path.is_file())


def test_int8_rows_are_within_half_a_step(tmp_path, seeded):
    """Matrices under the named beginnings lose at most half of 1/127 of their row's largest value; nothing else does."""
    tensors = {"a.w": torch.randn(6, 4, 3) * torch.logspace(-4, 2, 6)[:, None, None], "a.b": torch.randn(6), "c.w": torch.randn(6, 4)}
    tensors["a.w"][2] = 0
    save_bundle(tmp_path / "b", {**FACTS, "characters": []}, tensors, {}, int8=("a.",))
    back = open_bundle(tmp_path / "b").tensors()
    assert back.keys() == tensors.keys()
    step = tensors["a.w"].flatten(1).abs().amax(1)[:, None, None] / 127
    assert ((back["a.w"].float() - tensors["a.w"]).abs() <= 0.5 * step + 2e-3 * tensors["a.w"].abs() + 2**-24).all()
    for name in ("a.b", "c.w"):
        assert torch.equal(back[name], tensors[name].half())


def test_saving_again_leaves_nothing_behind(tmp_path):
    folder = make_bundle(tmp_path / "b")
    save_bundle(folder, {**FACTS, "characters": []}, {"x": torch.zeros(1)}, {})
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [MANIFEST, WEIGHTS]
    open_bundle(folder).verify()


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    for value in (1e6, float("nan")):
        with pytest.raises(ConfigError, match="'w'"):
            save_bundle(tmp_path / "b", FACTS, {"w": torch.tensor([value])}, {})
    assert not (tmp_path / "b").exists()


def test_an_incomplete_manifest_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="voices"):
        save_bundle(tmp_path / "b", {k: v for k, v in FACTS.items() if k != "voices"}, {}, {})
    assert not (tmp_path / "b" / MANIFEST).exists()


def test_missing_things_are_named(folder, tmp_path):
    for model in ("no-such-model", tmp_path / "nowhere"):
        with pytest.raises(BundleError, match="nowhere|no-such-model"):
            open_bundle(model)
    with pytest.raises(ConfigError):
        open_bundle("")
    with pytest.raises(BundleError, match=MANIFEST):
        open_bundle(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=WEIGHTS) as error:
        open_bundle(folder)
    assert "again" in error.value.hint


@pytest.mark.parametrize("name", [WEIGHTS, "characters/dot.png"])
def test_truncated_files_are_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        open_bundle(folder)


def test_any_changed_byte_is_found(folder, rng):
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    for name in names:
        whole = (folder / name).read_bytes()
        for place in rng.integers(0, len(whole), 5):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(rng.integers(0, 8))
            (folder / name).write_bytes(broken)
            bundle = open_bundle(folder)
            with pytest.raises(BundleError, match=name):
                bundle.verify()
            with pytest.raises(BundleError, match=name):
                Engine.load(folder)
        (folder / name).write_bytes(whole)
    open_bundle(folder).verify()


def test_an_edited_manifest_is_found(folder, rng):
    whole = (folder / MANIFEST).read_bytes()
    digits = [i for i, c in enumerate(whole) if chr(c).isalnum()]
    for place in rng.choice(digits, 30, replace=False):
        broken = bytearray(whole)
        broken[place] = ord("5") if broken[place] != ord("5") else ord("6")
        (folder / MANIFEST).write_bytes(broken)
        with pytest.raises(BundleError, match=MANIFEST):
            open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": "streamchar-bundle"}'])
def test_what_is_no_manifest_is_named(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST):
        open_bundle(folder)


def test_other_versions_say_what_to_update(folder):
    rewrite(folder, lambda m: m.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(BundleError, match=f"version {FORMAT_VERSION + 1}") as error:
        open_bundle(folder)
    assert "update" in error.value.hint
    rewrite(folder, lambda m: m.update(format_version=0))
    with pytest.raises(BundleError, match="export"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../b", MANIFEST])
def test_a_manifest_reaches_only_into_its_folder(folder, name):
    rewrite(folder, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match="inside"):
        open_bundle(folder)


def test_a_folder_of_other_nets_is_refused(folder):
    with pytest.raises(BundleError, match="do not fit together"):
        Engine.load(folder)


@pytest.mark.parametrize("wrong", [
    {"sampler": {"picture": 2.0}}, {"sampler": {"smell": 0.5}}, {"sampler": [0.5]}, {"sampler": {"sound": "loud"}},
    {"lids": {"top": 200}}, {"lids": {"levels": [2.0]}}, {"lids": {"channels": [8, 8, 8]}}])
def test_settings_that_fit_nothing_are_refused(tmp_path, wrong):
    folder = tmp_path / "mini"
    shutil.copytree(SHIPPED / "mini", folder, copy_function=os.symlink)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(text)
    rewrite(folder, lambda m: m["model"].update(wrong))
    with pytest.raises(BundleError, match="do not fit together"):
        Engine.load(folder)


def test_memory_plan_and_limit(folder):
    plan = Engine.estimate_memory(folder)
    sound, pictures = 4 * 10240, 4 * 64 * 64 * 16
    session = 1000 + 7 * sound + 3 * (sound + pictures)  # 4 + 3 boundaries to go back to, 3 finished chunks
    whole = {"weights": 4 * 33, "session": session, "sessions": session, "workspace": 500, "total": 632 + session}
    assert plan == whole
    assert Engine.estimate_memory(folder, EngineConfig(slots_per_session=4))["session"] == session + 2 * sound + pictures
    required = 632 + 3 * session
    with pytest.raises(DeviceMemoryError) as error:
        Engine.load(folder, max_sessions=3, device_memory_limit=required - 1)
    assert (error.value.required_bytes, error.value.available_bytes) == (required, required - 1)


def test_devices_and_formats_that_are_not_there(folder):
    for wrong in ({"device": "cuda"}, {"device": "cuda:1"}, {"dtype": "fp16"}, {"dtype": "fp8"}):
        with pytest.raises(UnsupportedError) as error:
            Engine.load(folder, **wrong)
        assert error.value.hint


def test_a_shipped_name_is_not_hidden_by_a_folder(tmp_path, monkeypatch):
    for name in shipped_models():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        assert find_bundle(name).parent.name == "bundles"


def test_a_copied_bundle_opens(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    open_bundle(str(tmp_path / "copy")).verify()
