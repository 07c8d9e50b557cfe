"""A bundle's weights under the names that the trainings use, so that ``--init`` can start from a shipped model."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from streamchar_rt.bundle import MANIFEST, WEIGHTS, Bundle, open_bundle

RENAMES = {"reference.": "reference_encoder.", "decoder.": "video_decoder."}   # of the video codec
PREFIXES = ("", "vocoder.", "orchestrator.")
MINI = Path(__file__).parents[2] / "python" / "streamchar_rt" / "bundles" / "mini"    # of this tree
ENCODER = "encoder."                           # no part of a bundle, but in a file of its own:
ENCODER_FILE = Path(__file__).parents[1] / "evaluate" / "mini_video_encoder.safetensors"
WEIGHTS_DIGEST = "bundle_weights_sha256"       # in that file's metadata


def is_bundle(folder: Path) -> bool:
    return (Path(folder) / MANIFEST).exists()


def bundle_weights(folder: Path, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a bundle's tensors that fit into ``own``, a network's state, under its names; float32.

    The video encoder comes from the file that ``tools.train.export`` writes, if it belongs to this bundle.

    Raises:
        ValueError: if nothing fits.
    """
    bundle = open_bundle(str(folder))
    tensors = {**bundle.tensors(), **encoder_of(bundle)}
    found = max((_fitting(tensors, own, prefix) for prefix in PREFIXES), key=len)
    if not found:
        raise ValueError(f"nothing in the bundle {folder} fits this network")
    return found


def _fitting(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in own.items():
        old = next((old for old in RENAMES if not prefix and name.startswith(old)), None)
        there = tensors.get(RENAMES[old] + name[len(old):] if old else prefix + name)
        if there is not None and there.shape == value.shape:
            found[name] = there.float()
    return found


def encoder_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The video encoder that the bundle's latents come from; nothing where the file is another bundle's."""
    from safetensors import safe_open

    if not ENCODER_FILE.exists():
        return {}
    with safe_open(ENCODER_FILE, "pt") as file:
        if (file.metadata() or {}).get(WEIGHTS_DIGEST) != bundle.manifest["files"][WEIGHTS]["sha256"]:
            return {}
        return {ENCODER + name: file.get_tensor(name) for name in file.keys()}
