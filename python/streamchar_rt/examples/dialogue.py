"""Two characters in dialogue, side by side: one speaks, the other listens, and one engine steps both at once."""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from .. import Chunk, Engine
from ..media import open_writer
from . import run

LINES = (
    "Good morning! Did you hear the sea last night?",
    "I did. [happy] It sounded like a very large cat.",
    "A cat? [surprised] I have never heard a cat that loud.",
    "Then you have not met mine.",
)


def side_by_side(left: Chunk, right: Chunk) -> Chunk:
    fields = {name: getattr(left, name) for name in Chunk.__slots__ if not name.startswith("_")}
    sound, pictures = left.audio + right.audio, np.concatenate([left.video, right.video], 2)
    return Chunk(**fields, audio=sound.clip(-1, 1), video=pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", default="dialogue.mp4", help="default: dialogue.mp4")
    parser.add_argument("--lines", type=int, default=len(LINES), metavar="N", help="only the first N lines")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(open_writer(options.out))
        engine = stack.enter_context(Engine.load(max_sessions=2))
        names = engine.characters()[:2]
        pair = [stack.enter_context(engine.session(name, seed=i)) for i, name in enumerate(names)]
        wide = dataclasses.replace(engine.info, width=2 * engine.info.width)
        for number, line in enumerate(LINES[: options.lines]):
            speaker = pair[number % 2]
            speaker.say(line)
            pair[1 - number % 2].listen()
            print(f"{names[number % 2]}: {line}")
            ended = False
            while not ended:
                chunks = dict(engine.step())
                writer.write(side_by_side(*(chunks[session] for session in pair)), wide)
                ended = chunks[speaker].end_of_turn
    print(options.out)


if __name__ == "__main__":
    run(main)
