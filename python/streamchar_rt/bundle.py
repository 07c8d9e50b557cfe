"""Bundles: a folder with ``manifest.json`` and ``.safetensors`` weights is a model.

The manifest names every file with its size and SHA-256, and carries a digest of itself, so that a truncated or
edited bundle is found when it is opened and not when it misbehaves.

Weights are stored as fp16, or as int8 with a scale for each row (of the first axis) in ``NAME.scale``: fp32,
since the steps of small rows are below what fp16 holds exactly.

Keys of ``manifest.json``::

    format            "streamchar-bundle"
    format_version    2
    name              the model's name
    stream            {"sample_rate", "fps": [numerator, denominator], "width", "height", "chunk_frames",
                       "chunk_samples", "alpha_mode", "capabilities": [...]}
    model             configurations of the nets, as their classes take them
    steps             default number of denoising steps
    voices            names, in the order of the model's voice indices
    emotions          names, in the order of the model's emotion indices; the first is the neutral one
    characters        [{"name", "file", "voice"}, ...]; the first one is the default
    memory            {"session": bytes of context and decoder states, "workspace": bytes of temporary tensors}
    weights           files that hold tensors
    files             {path: {"bytes", "sha256"}} of every file but the manifest
    digest            SHA-256 of the manifest without this key
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .config import StreamInfo
from .errors import BundleError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "streamchar-bundle"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
LEXICON = "lexicon.bin"
LETTER_TO_SOUND = "letter_to_sound.safetensors"
SCALE = ".scale"  # after a tensor's name: what its int8 rows are multiplied by
SHIPPED = Path(__file__).parent / "bundles"

_REPAIR = "install streamchar_rt again, or export the bundle again"
_REQUIRED: dict[str, type] = {
    "name": str, "stream": dict, "model": dict, "steps": int, "voices": list, "emotions": list, "characters": list,
    "memory": dict, "weights": list, "files": dict,
}  # fmt: skip


@dataclass(frozen=True)
class ShippedCharacter:
    name: str
    file: str
    voice: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest is valid and every file has the right size.

    ``verify()`` reads all files and compares their hashes.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def steps(self) -> int:
        return self.manifest["steps"]

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self.manifest["voices"])

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(self.manifest["emotions"])

    @cached_property
    def info(self) -> StreamInfo:
        stream = dict(self.manifest["stream"])
        stream["fps"] = Fraction(*stream["fps"])
        stream["capabilities"] = frozenset(stream["capabilities"])
        return StreamInfo(**stream)

    @cached_property
    def characters(self) -> dict[str, ShippedCharacter]:
        return {entry["name"]: ShippedCharacter(**entry) for entry in self.manifest["characters"]}

    def path(self, name: str) -> Path:
        """Where a file of the manifest lies.

        Raises:
            BundleError: for a file that the manifest does not list.
        """
        if name not in self.manifest["files"]:
            raise BundleError(f"{self.folder / MANIFEST} lists no file {name!r}", hint=_REPAIR)
        return self.folder / name

    def verify(self) -> None:
        """Compares the hash of every file.

        Raises:
            BundleError: naming the first file that differs.
        """
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            try:
                found = _sha256(path)
            except OSError as error:
                raise BundleError(f"{path} cannot be read: {error.strerror}", hint=_REPAIR) from error
            if found != entry["sha256"]:
                raise BundleError(f"{path} has been changed or damaged: its SHA-256 differs", hint=_REPAIR)

    def tensors(self) -> dict[str, Tensor]:
        """All weights, fp16, on the CPU.

        Raises:
            BundleError: where a file is not a readable safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = {}
        for name in self.manifest["weights"]:
            path = self.path(name)
            try:
                tensors.update(load_file(path))
            except (SafetensorError, OSError) as error:
                raise BundleError(f"{path} cannot be read: {error}", hint=_REPAIR) from error
        return _restore_int8(tensors)

    def weight_elements(self) -> int:
        """Numbers in all weights, from the files' headers only."""
        return sum(_count_elements(self.path(name)) for name in self.manifest["weights"])

    def memory_plan(
        self, *, sessions: int, element_bytes: int, slots: int = 3, max_lead: float = 1.0
    ) -> dict[str, int]:
        """Bytes that an engine takes: weights, one session, all sessions, temporary tensors and the total.

        A session is its context and decoder states, what an interrupt may go back to, and the finished chunks that
        wait for a slow consumer.

        Args:
            slots: finished chunks that a session holds.
            max_lead: seconds that an interrupt may go back.
        """
        weights = self.weight_elements() * element_bytes
        info, workspace = self.info, self.manifest["memory"]["workspace"]
        sound, pictures = 4 * info.chunk_samples, 4 * info.width * info.height * info.chunk_frames
        boundaries = 2 + math.ceil(max_lead / info.chunk_seconds) + slots
        session = self.manifest["memory"]["session"] + boundaries * (self._chunk_context_bytes() + sound)
        session += slots * (sound + pictures)
        return {
            "weights": weights,
            "session": session,
            "sessions": session * sessions,
            "workspace": workspace,
            "total": weights + session * sessions + workspace,
        }

    def _chunk_context_bytes(self) -> int:
        """Keys and values of one chunk, in float32; 0 for a model without a denoiser."""
        dit = self.manifest["model"].get("dit")
        if not dit:
            return 0
        layout = dit["layout"]
        places = layout["grid"] * (layout.get("grid_columns") or layout["grid"])
        tokens = -(-layout["frames"] // layout["temporal"]) * places + layout["audio_tokens"]
        return 2 * 4 * dit["depth"] * dit["width"] * tokens


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    if not SHIPPED.is_dir():
        return ()
    return tuple(sorted(folder.name for folder in SHIPPED.iterdir() if (folder / MANIFEST).is_file()))


def find_bundle(model: str | os.PathLike[str]) -> Path:
    """The folder of a shipped model's name or of a path.

    Raises:
        BundleError: where there is no such folder.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise ConfigError(f"model={model!r} is neither a name nor a folder", hint='for example "mini"')
    folder = Path(model)
    if isinstance(model, str) and folder.name == model and (SHIPPED / model).is_dir():
        return SHIPPED / model
    if not folder.is_dir():
        known = ", ".join(shipped_models()) or "none is installed"
        raise BundleError(f"there is no model {os.fspath(model)!r}", hint=f"shipped models: {known}; or give a folder")
    return folder


def open_bundle(model: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle: checks the manifest, and that every file is there in its full size.

    Raises:
        BundleError: naming the file that is missing, truncated, edited or of another version.
    """
    folder = find_bundle(model)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing", hint="give the folder that holds manifest.json") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}", hint=_REPAIR) from error
    _check_manifest(path, manifest)
    for name, entry in manifest["files"].items():
        file = folder / name
        try:
            size = file.stat().st_size
        except OSError as error:
            raise BundleError(f"{file} is missing", hint=_REPAIR) from error
        if size != entry["bytes"]:
            raise BundleError(f"{file} has {size} bytes instead of {entry['bytes']}", hint=_REPAIR)
    return Bundle(folder, manifest)


def save_bundle(
    folder: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    files: Mapping[str, str | os.PathLike[str]],
    *,
    int8: tuple[str, ...] = (),
) -> None:
    """Writes a bundle: floating-point tensors as fp16, copies of ``files``, and the manifest last.

    Args:
        folder: made if it is missing; files of an earlier bundle that are not part of this one are removed.
        manifest: every key of the module's table but ``format``, ``format_version``, ``weights``, ``files``
            and ``digest``, which are made here.
        tensors: the model's weights by name.
        files: path inside the bundle → file to copy.
        int8: beginnings of the names of matrices to store as int8, for half the space.

    Raises:
        ConfigError: where the manifest lacks a key, or a weight is not finite in fp16.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    halves = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
            if not torch.isfinite(tensor).all():
                raise ConfigError(f"weight {name!r} is not finite in fp16", hint="rescale it, or train on")
        halves[name] = tensor
        if int8 and name.startswith(int8) and tensor.dim() > 1:
            halves[name], halves[name + SCALE] = _to_int8(tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # no manifest while the files change
    save_file(halves, folder / WEIGHTS)
    for name, source in files.items():
        _check_inside(folder / MANIFEST, name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists() or not os.path.samefile(source, folder / name):
            shutil.copyfile(source, folder / name)
    names = sorted([WEIGHTS, *files])
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
    for name in names:  # some of these come with the permissions of a temporary file
        (folder / name).chmod(0o644)
    complete = {
        **manifest,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "weights": [WEIGHTS],
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names
        },
    }
    complete["digest"] = _digest(complete)
    _check_manifest(folder / MANIFEST, complete, error=ConfigError)
    (folder / MANIFEST).write_text(json.dumps(complete, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _check_manifest(path: Path, manifest: Any, error: type[BundleError] | type[ConfigError] = BundleError) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise error(f"{path} is not the manifest of a {FORMAT}", hint="give the folder of an exported model")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        hint = "update streamchar_rt" if newer else "export the model again with this version of the tools"
        raise error(f"{path} has format version {version}; this package reads {FORMAT_VERSION}", hint=hint)
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise error(f"{path} lacks {key!r} or has it of another kind", hint=_REPAIR)
    if manifest.get("digest") != _digest(manifest):
        raise error(f"{path} has been edited: its digest differs", hint=_REPAIR)
    for name in manifest["files"]:
        _check_inside(path, name)


def _check_inside(manifest: Path, name: str) -> None:
    """A manifest must not make anyone read or write outside its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name == MANIFEST:
        raise BundleError(f"{manifest} lists {name!r}, which is not a path inside the bundle", hint=_REPAIR)


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _to_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Rows rounded to 255 steps, int8 of the tensor's shape, and their steps, fp32 (rows,)."""
    import torch

    rows = tensor.float().flatten(1)
    step = (rows.abs().amax(1) / 127).clamp(min=2.0**-31)  # a row of zeros has a step, too
    return (rows / step[:, None]).round().clamp(-127, 127).to(torch.int8).reshape(tensor.shape), step


def _restore_int8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in [name for name in tensors if name + SCALE in tensors]:
        step, rows = tensors.pop(name + SCALE).float(), tensors[name]
        tensors[name] = (rows.float() * step.reshape(-1, *[1] * (rows.dim() - 1))).half()
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_elements(path: Path) -> int:
    """Numbers in a safetensors file: eight bytes of header length, then a JSON header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100_000_000)))
        total = 0
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for size in entry["shape"]:
                    count *= size
                total += count
        return total
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BundleError(f"{path} has no readable header", hint=_REPAIR) from error
