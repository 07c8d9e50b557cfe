"""A video with captions: what is spoken goes into an .srt or .vtt file with its times."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .. import generate
from ..captions import write_captions
from . import run

TEXT = "Captions come from the words themselves. Every word knows when it is heard, so they are never late."
SAMPLE_RATE = 16_000  # of the mini model; Engine.info.sample_rate in general


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("-o", "--out", default="captioned.mp4", help="the video (default: captioned.mp4)")
    parser.add_argument("--captions", help=".srt or .vtt (default: beside the video, .srt)")
    options = parser.parse_args(arguments)
    words = [word for chunk in generate(options.text, out=options.out) for word in chunk.words]
    path = options.captions or Path(options.out).with_suffix(".srt")
    write_captions(path, words, SAMPLE_RATE)
    print(f"{options.out} and {path}")


if __name__ == "__main__":
    run(main)
