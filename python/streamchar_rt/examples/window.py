"""A character in a window, with sound: type a line and press Enter; Escape cuts it off."""
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .. import Engine, UnsupportedError
from ..pacing import paced
from . import run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--headless", type=int, metavar="N", help="N chunks without screen and loudspeaker")
    options = parser.parse_args(arguments)
    if options.headless:
        os.environ.update(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy")
    try:
        import pygame
    except ImportError as error:
        raise UnsupportedError("pygame is not installed", hint='pip install "streamchar-rt[play]"') from error
    with Engine.load() as engine:
        info, typed, character = engine.info, "", engine.characters()[0]
        pygame.mixer.init(info.sample_rate, -16, 1, allowedchanges=0)
        pygame.init()
        screen, channel = pygame.display.set_mode((info.width, info.height)), pygame.mixer.Channel(0)
        with engine.session(character, threading="background", pixel_format="rgb") as session:
            session.say("Hello! Type something, and I will say it.")

            def keys(typed: str) -> str:
                for event in pygame.event.get():
                    if event.type == pygame.QUIT:
                        session.close()
                    elif event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                        channel.stop()
                        session.interrupt()
                    elif event.type == pygame.KEYDOWN and event.key == pygame.K_RETURN:
                        session.say(typed)
                        typed = ""
                    elif event.type == pygame.KEYDOWN:
                        typed = typed[:-1] if event.key == pygame.K_BACKSPACE else typed + event.unicode
                return typed

            clock = pygame.time.Clock()
            for chunk in paced(session):
                channel.queue(pygame.mixer.Sound((chunk.audio * 32767).astype("<i2").tobytes()))
                for frame in chunk.frames() if session.is_valid(chunk) else ():
                    screen.blit(pygame.image.frombuffer(frame.pixels.tobytes(), screen.get_size(), "RGB"), (0, 0))
                    pygame.display.set_caption(typed or "streamchar")
                    pygame.display.flip()
                    typed = keys(typed)
                    clock.tick(float(info.fps))
                if options.headless and chunk.index + 1 >= options.headless:
                    return


if __name__ == "__main__":
    run(main)
