"""Text as a language model writes it, cut off by the user in mid-word, and an answer to that."""
from __future__ import annotations

import argparse
import re
import threading
import time
from collections.abc import Iterator, Sequence

from .. import Engine, Session
from ..media import open_writer
from ..pacing import paced
from . import run

STORY = "Once upon a time there was a small robot. It lived by the sea, and every morning it counted the waves."


def tokens(text: str, seconds: float) -> Iterator[str]:  # in place of a language model
    for piece in re.findall(r"\s*\S{1,4}", text):
        time.sleep(seconds)
        yield piece


def talk(session: Session, seconds: float, cut: threading.Event) -> None:
    session.push_stream(tokens(STORY, seconds))  # ends by itself where the session is interrupted
    if not cut.is_set():
        session.end_turn()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", default="barge_in.mp4", help="default: barge_in.mp4")
    parser.add_argument("--cut", type=float, default=3.0, help="seconds after which the user barges in (default: 3)")
    parser.add_argument("--headless", action="store_true", help="as fast as it goes, not in real time")
    options = parser.parse_args(arguments)
    with open_writer(options.out) as writer, Engine.load() as engine, \
            engine.session(engine.characters()[0], threading="background") as session:
        cut = threading.Event()
        llm = threading.Thread(target=talk, args=(session, 0.0 if options.headless else 0.05, cut))
        llm.start()
        if options.headless:
            llm.join()
        for chunk in session if options.headless else paced(session):
            if chunk.pts >= options.cut * engine.info.sample_rate and not cut.is_set():
                cut.set()
                receipt = session.interrupt(chunk.pts)  # this chunk is not played any more
                llm.join()
                print(f"heard:   {receipt.spoken_text!r}\nunheard: {receipt.unspoken_text!r}")
                session.say("Yes? I am listening.")
                continue
            writer.write(chunk, engine.info)
            if cut.is_set() and chunk.end_of_turn:
                break


if __name__ == "__main__":
    run(main)
