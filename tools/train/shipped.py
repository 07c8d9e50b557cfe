"""A bundle's weights under the names that the trainings use, so that they can start from a shipped model.

``--init`` takes a bundle as it is. For all else that wants a checkpoint folder (a codec, a teacher, an orchestrator),

    python -m tools.train.shipped --out DIR

writes DIR/codec, vocoder, orchestrator and denoiser.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from streamchar_rt.bundle import MANIFEST, WEIGHTS, Bundle, open_bundle

RENAMES = {"reference.": "reference_encoder.", "decoder.": "video_decoder."}   # of the video codec
PREFIXES = ("", "vocoder.", "orchestrator.", "eyes.", "lids.")
MINI = Path(__file__).parents[2] / "python" / "streamchar_rt" / "bundles" / "mini"    # of this tree
ENCODER = "encoder."                           # no part of a bundle, but in a file of its own:
ENCODER_FILE = Path(__file__).parents[1] / "evaluate" / "mini_video_encoder.safetensors"
TRAINING_ONLY = "pose."                        # of the video codec: the head that the encoder is trained with
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


def unpack(folder: Path, out: Path) -> list[Path]:
    """Checkpoint folders of a bundle's networks in ``out``, as a training's result and without its optimizer.

    Raises:
        ValueError: if a network's weights are not all there, as the codec's encoder is not for a bundle of others.
    """
    from streamchar_rt.codecs.vocoder import Vocoder
    from streamchar_rt.orchestrator.model import Orchestrator

    from .denoiser import Denoiser
    from .codec_networks import VideoCodec

    written = []
    for name, build in {"codec": VideoCodec, "vocoder": Vocoder, "orchestrator": Orchestrator,
                        "denoiser": Denoiser}.items():
        own = build().state_dict()
        weights = bundle_weights(folder, own)
        if lacking := sorted(name for name in own if name not in weights and not name.startswith(TRAINING_ONLY)):
            raise ValueError(f"the bundle {folder} lacks {len(lacking)} tensors of its {name}, {lacking[0]} among them")
        (out / name).mkdir(parents=True, exist_ok=True)
        weights = {**own, **weights}
        torch.save({"model": weights, "ema": weights, "iteration": 0, "seconds": 0.0}, out / name / "checkpoint.pt")
        written.append(out / name)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=MINI, help="folder; the shipped model by default")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        for folder in unpack(args.bundle, args.out):
            print(folder)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
