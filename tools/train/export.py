"""Put trained parts together as a bundle.

    python -m tools.train.export --codec DIR --vocoder DIR --orchestrator DIR --denoiser DIR --eyes DIR --lids DIR \\
        --scenes DIR --lexicon FILE --letter-to-sound FILE --out python/streamchar_rt/bundles/mini
    python -m tools.train.export --base mini --codec DIR --out DIR    # another codec in it

Takes the averaged weights of each checkpoint folder; the latents' statistics come from the scenes the denoiser
was trained on. What is not given comes from the bundle ``--base``. Characters are the studio's cast, drawn at rest.
The video encoder, which the run time has no use for, is not in the bundle: that of ``mini`` is ENCODER_FILE, where
``tools.evaluate.codec`` finds it, another one's stands beside its folder.
"""
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image

from streamchar_rt.bundle import WEIGHTS, find_bundle, open_bundle, save_bundle
from streamchar_rt.codecs.eyes import EyeConfig
from streamchar_rt.codecs.lids import LidConfig
from streamchar_rt.codecs.video import VideoCodecConfig
from streamchar_rt.codecs.vocoder import VocoderConfig
from streamchar_rt.denoiser.dit import DiTConfig
from streamchar_rt.denoiser.sampler import Sampler
from streamchar_rt.orchestrator.condition import ConditionConfig
from streamchar_rt.orchestrator.model import OrchestratorConfig
from tools.studio.behaviour import EMOTIONS
from tools.studio.cast import CAST, VOICE_OF
from tools.studio.character import Identity, Renderer
from tools.studio.pose import REST
from tools.studio.speech import VOICE_NAMES

from .loop import load_weights
from .scenes import Scenes
from .shipped import ENCODER, ENCODER_FILE, MINI, WEIGHTS_DIGEST, encoder_of

INT8 = ("condition.", "orchestrator.llm.", "orchestrator.layers.")     # stored so, for their size


def gather(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """All networks' tensors under the names that ``Models.from_parts`` reads."""
    tensors: dict[str, torch.Tensor] = open_bundle(str(args.base)).tensors() if args.base else {}

    def take(folder: Path | None, renames: dict[str, str]) -> None:
        for key, value in (load_weights(folder) if folder else {}).items():
            for old, new in renames.items():
                if key.startswith(old):
                    tensors[new + key[len(old):]] = value
                    break

    take(args.codec, {"reference.": "reference_encoder.", "decoder.": "video_decoder."})
    take(args.vocoder, {"": "vocoder."})
    take(args.orchestrator, {"": "orchestrator."})
    take(args.denoiser, {"dit.": "dit.", "condition.": "condition."})
    take(args.eyes, {"": "eyes."})
    take(args.lids, {"": "lids."})
    if args.scenes:
        scenes = Scenes.load(args.scenes)
        tensors["latent.mean"], tensors["latent.std"] = torch.from_numpy(scenes.mean), torch.from_numpy(scenes.std)
    return tensors


def encoder_weights(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The video encoder's, in float16."""
    weights = load_weights(args.codec) if args.codec else base_encoder(args.base)
    return {k.removeprefix(ENCODER): v.half().contiguous() for k, v in weights.items() if k.startswith(ENCODER)}


def base_encoder(base: Path) -> dict[str, torch.Tensor]:
    found = encoder_of(open_bundle(str(base)))
    if not found:
        raise SystemExit(f"{ENCODER_FILE} belongs to another bundle than {base}: give --codec")
    return found


def save_encoder(weights: dict[str, torch.Tensor], bundle: Path, file: Path) -> None:
    """Marked with the digest of the bundle's weights."""
    from safetensors.torch import save_file

    save_file(weights, file, {WEIGHTS_DIGEST: open_bundle(str(bundle)).manifest["files"][WEIGHTS]["sha256"]})


def encoder_file(bundle: Path) -> Path:
    return ENCODER_FILE if bundle.resolve() == MINI.resolve() else bundle.with_name(f"{bundle.name}_video_encoder.safetensors")


def draw_cast(folder: Path) -> tuple[list[dict], dict[str, Path]]:
    entries, files = [], {}
    for name, seed in CAST.items():
        path = folder / f"{name}.png"
        Image.fromarray(Renderer(Identity.from_seed(seed)).draw(REST), "RGBA").save(path, optimize=True)
        file = f"characters/{name}.png"
        entries.append({"name": name, "file": file, "voice": VOICE_OF[name]})
        files[file] = path
    return entries, files


def settings(args: argparse.Namespace) -> dict:
    """What ``manifest`` takes beside characters and names: as given, else as the base has it."""
    model = open_bundle(str(args.base)).manifest["model"] if args.base else {}
    of_base = {"steps": model.get("steps"), "closing": model.get("eyes", {}).get("closing"),
               "sampler": Sampler(**model["sampler"]) if "sampler" in model else None}
    given = {"steps": args.steps, "closing": args.closing, "sampler": args.sampler and Sampler(*args.sampler)}
    chosen = {name: of_base[name] if value is None else value for name, value in given.items()}
    return {name: value for name, value in chosen.items() if value is not None}


def manifest(characters: list[dict], names: Iterable[str], *, steps: int = 4, closing: float = 1.0,
             sampler: Sampler = Sampler()) -> dict:
    """``names``: of the tensors. Bundles that were made before there were networks for eyes and lids go without.
    ``closing``: how far those close."""
    has = lambda part: any(name.startswith(part) for name in names)
    eyes = {"eyes": EyeConfig(closing=closing).to_dict()} if has("eyes.") else {}
    lids = {"lids": LidConfig().to_dict()} if has("lids.") else {}
    return {
        "name": "mini",
        "stream": {"sample_rate": 16000, "fps": [25, 1], "width": 256, "height": 256, "chunk_frames": 16,
                   "chunk_samples": 10240, "alpha_mode": "straight",
                   "capabilities": ["words", "visemes", "emotions", "listening", "idle", "rgba"]},
        "model": {"orchestrator": OrchestratorConfig().to_dict(), "condition": ConditionConfig().to_dict(),
                  "dit": DiTConfig().to_dict(), "vocoder": VocoderConfig().to_dict(),
                  "video_codec": VideoCodecConfig().to_dict(), **eyes, **lids, "sampler": sampler.to_dict(), "steps": steps},
        "steps": steps, "voices": list(VOICE_NAMES), "emotions": list(EMOTIONS), "characters": characters,
        "memory": {"session": 16 << 20, "workspace": 256 << 20},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="a bundle, its name or folder, to take from what is not given")
    for name in ("codec", "vocoder", "orchestrator", "denoiser", "eyes", "lids", "scenes"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path)
    parser.add_argument("--letter-to-sound", type=Path)
    parser.add_argument("--encoder-out", type=Path, help="file of the video encoder")
    parser.add_argument("--steps", type=int, help="of denoising, by default; of the base, or 4")
    parser.add_argument("--closing", type=float,
                        help="how far eyes close, as far as the decoder draws it well; as in the base, or 1: all the way")
    parser.add_argument("--sampler", type=float, nargs=2, metavar=("PICTURE", "SOUND"),
                        help="how much of a velocity's last change its next step adds: 0.5 is Adams and Bashforth's method;"
                        " as in the base, or 0: Euler's, which a distilled student wants")
    args = parser.parse_args(arguments)
    for name in ("codec", "vocoder", "orchestrator", "denoiser", "eyes", "lids", "scenes", "lexicon", "letter_to_sound"):
        if not args.base and not getattr(args, name):
            parser.error(f"give --{name.replace('_', '-')}, or a --base to take it from")
    args.base = args.base and find_bundle(args.base)
    try:
        chosen = settings(args)
    except ValueError as error:
        parser.error(str(error))
    tensors, encoder = gather(args), encoder_weights(args)     # before anything is written: --out may be the base
    with tempfile.TemporaryDirectory() as folder:
        characters, files = draw_cast(Path(folder))
        for name, given in (("lexicon.bin", args.lexicon), ("letter_to_sound.safetensors", args.letter_to_sound)):
            files[name] = Path(folder) / name
            files[name].write_bytes((given or args.base / name).read_bytes())
        save_bundle(args.out, manifest(characters, tensors, **chosen), tensors, files, int8=INT8)
    save_encoder(encoder, args.out, args.encoder_out or encoder_file(args.out))
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 2 ** 20:.1f} MiB")


if __name__ == "__main__":
    main()
