"""Speak a line into a file, and print the words as they are spoken."""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import generate
from . import run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="Hello! I am a streaming character.")
    parser.add_argument("-o", "--out", default="hello.mp4", help=".mp4, .webm, .wav or a folder (default: hello.mp4)")
    options = parser.parse_args(arguments)
    for chunk in generate(options.text, out=options.out):
        for word in chunk.words:
            print(word.text, end=" ", flush=True)
    print(f"\n{options.out}")


if __name__ == "__main__":
    run(main)
