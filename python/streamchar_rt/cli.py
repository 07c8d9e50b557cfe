"""The ``streamchar`` command."""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ConfigError, StreamCharError

if TYPE_CHECKING:
    from .chunk import Chunk
    from .engine import Engine

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0 done, 1 failed, 2 wrong use, 130 stopped by the user."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (StreamCharError, OSError, MemoryError) as error:
        return _report(error)


def _report(error: BaseException) -> int:
    message = getattr(error, "message", "") or str(error) or type(error).__name__
    print(f"streamchar: {message}", file=sys.stderr)
    hint = getattr(error, "hint", "")
    if hint:
        print(f"  try: {hint}", file=sys.stderr)
    return USAGE if isinstance(error, ConfigError) else FAILED


# ---------------------------------------------------------------- say
def _say(options: argparse.Namespace) -> int:
    from .media import open_writer

    text = _text(options)
    with ExitStack() as stack:
        writer, engine = stack.enter_context(open_writer(options.out)), stack.enter_context(_load(options))
        character = engine.character(options.character or engine.characters()[0], voice=options.voice)
        record = None
        if options.record:
            from .recording import Recorder

            record = stack.enter_context(Recorder(options.record, engine, character))
        with engine.session(character, seed=options.seed, steps=options.steps, record=record) as session:
            session.on_event(_print_warning)
            if options.emotion:
                _check_emotion(engine, options.emotion)
                session.cue(options.emotion)
            session.push_stream([text])
            session.end_turn()
            progress = _Progress("speaking", len(text), quiet=options.quiet)
            spoken = 0
            for chunk in session.turn():
                writer.write(chunk, engine.info)
                if chunk.words:
                    spoken = chunk.words[-1].text_offset + len(chunk.words[-1].text)
                progress.show(spoken, f"{_seconds(chunk):.1f} s of video")
            progress.done()
        stats = session.stats()
    if not options.quiet:
        seconds = stats["seconds_generated"]
        print(f"{options.out}: {seconds:.2f} s, real-time factor {stats['real_time_factor']:.2f}", file=sys.stderr)
    return OK


# ---------------------------------------------------------------- replay
def _replay(options: argparse.Namespace) -> int:
    from .media import open_writer
    from .recording import Recording

    if not options.out and not options.check:
        raise ConfigError("there is nothing to do", hint="give -o OUT, or --check, or both")
    recording = Recording.load(options.recording)
    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(options.out)) if options.out else None
        engine = stack.enter_context(_load(options))
        name = options.character or recording.facts.get("character")
        if not options.character and name not in engine.characters():
            raise ConfigError(f"the character {name!r} is not a shipped one", hint="give its picture: -c PICTURE")
        character = engine.character(name, voice=recording.facts.get("voice"))
        session = stack.enter_context(recording.session(engine, character))
        total = len(recording.digests)
        progress = _Progress("replaying", total, quiet=options.quiet)
        different: list[int] = []

        def chunks() -> Iterator[Chunk]:
            for count, (chunk, same) in enumerate(recording.play(session), 1):
                progress.show(count, f"chunk {count} of {total}")
                if not same:
                    different.append(count)
                    if options.check:
                        return
                yield chunk

        for chunk in recording.heard(chunks()):
            if writer is not None:
                writer.write(chunk, engine.info)
        progress.done()
        if different:
            print(
                f"streamchar: chunk {different[0]} of {total} is not the recorded one\n"
                f"  compare: {recording.differences(session)}", file=sys.stderr,
            )  # fmt: skip
            return FAILED
    if not options.quiet:
        print(f"{options.recording}: {total} chunks, all as recorded", file=sys.stderr)
    return OK


def _text(options: argparse.Namespace) -> str:
    """The text to speak: arguments, a file, or standard input."""
    if options.file is not None and options.text:
        raise ConfigError("both text and --file are given", hint="give one of them")
    if options.file is not None and options.file != "-":
        try:
            text = Path(options.file).read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise ConfigError(f"{options.file} cannot be read: {error.strerror}", hint="check the path") from error
    elif options.text and options.text != ["-"]:
        text = " ".join(options.text)
    else:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("there is no text to speak", hint='streamchar say "Hello!" -o hello.mp4')
        text = sys.stdin.buffer.read().decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise ConfigError("the text is empty", hint='streamchar say "Hello!" -o hello.mp4')
    return text


def _check_emotion(engine: Engine, name: str) -> None:
    if name not in engine.emotions():
        raise ConfigError(f"there is no emotion {name!r}", hint="one of " + ", ".join(engine.emotions()))


def _seconds(chunk: Chunk) -> float:
    return (chunk.index + 1) * chunk.duration


def _print_warning(event: str, details: Any) -> None:
    if event != "warning":
        return
    if details["kind"] == "script":
        text = f"skipped {details['text'][:40]!r}: the voices do not speak {details['script']}"
    elif details["kind"] == "cue":
        text = f"[{details['name']}] is no emotion of this character"
    else:
        text = f"speech has not moved for {details['seconds']:.1f} s"
    print(f"\r\033[Kwarning: {text}" if sys.stderr.isatty() else f"warning: {text}", file=sys.stderr)


# ---------------------------------------------------------------- characters
def _characters(options: argparse.Namespace) -> int:
    from .bundle import open_bundle
    from .sheet import contact_sheet

    bundle = open_bundle(options.model)
    bundle.verify()
    if options.out:
        contact_sheet(bundle, Path(options.out))
        print(f"{options.out}: the contact sheet", file=sys.stderr)
    if options.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in bundle.characters.values()], indent=1))
    else:
        width = max(map(len, bundle.characters), default=0)
        for entry in bundle.characters.values():
            print(f"{entry.name:<{width}}  voice {entry.voice}")
        print("voices:   " + ", ".join(bundle.voices))
        print("emotions: " + ", ".join(bundle.emotions))
    return OK


# ---------------------------------------------------------------- doctor, bench and profile
def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    report = examine(options.model, measure=not options.quick)
    print(json.dumps(report.facts, indent=1, default=str) if options.json else report.text())
    return OK if report.healthy else FAILED


def _bench(options: argparse.Namespace) -> int:
    from .bench import measure

    with _load(options) as engine:
        progress = _Progress("measuring", options.chunks, quiet=options.quiet or options.json)
        result = measure(
            engine, chunks=options.chunks, steps=options.steps, seed=options.seed,
            progress=lambda done: progress.show(done, f"chunk {done} of {options.chunks}"),
        )  # fmt: skip
        progress.done()
    print(json.dumps(result.row) if options.json else result.table())
    return OK


def _profile(options: argparse.Namespace) -> int:
    from .profile import measure

    with _load(options) as engine:
        progress = _Progress("profiling", 2 * options.chunks, quiet=options.quiet or options.json)
        result = measure(
            engine, chunks=options.chunks, steps=options.steps, seed=options.seed,
            progress=lambda done: progress.show(done, f"chunk {done} of {2 * options.chunks}"),
        )  # fmt: skip
        progress.done()
    if options.trace:
        result.write_trace(Path(options.trace))
        print(f"{options.trace}: {len(result.calls)} op calls, for https://ui.perfetto.dev", file=sys.stderr)
    print(json.dumps({**result.facts, "stages": result.stages, "ceilings": dataclasses.asdict(result.ceilings),
                      "ops": result.rows()}) if options.json else result.table(options.top))  # fmt: skip
    return OK


def _load(options: argparse.Namespace) -> Engine:
    from .engine import Engine

    return Engine.load(options.model, threads=options.threads, kernels=options.kernels, dtype=options.dtype)


# ---------------------------------------------------------------- progress
class _Progress:
    """A bar on standard error, with an estimate of the time left; nothing where that is no terminal."""

    _WIDTH = 28

    def __init__(self, what: str, total: int, *, quiet: bool) -> None:
        self._what = what
        self._total = max(1, total)
        self._visible = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._begin = time.monotonic()

    def show(self, done: int, note: str) -> None:
        if not self._visible:
            return
        share = min(1.0, done / self._total)
        bar = "#" * round(share * self._WIDTH)
        elapsed = time.monotonic() - self._begin
        left = f", {_clock(elapsed / share - elapsed)} left" if 0 < share < 1 else ""
        print(f"\r\033[K{self._what} [{bar:<{self._WIDTH}}] {note}{left}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        if self._visible:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# ---------------------------------------------------------------- arguments
class _Parser(argparse.ArgumentParser):
    """Says what to do next where arguments are wrong."""

    def error(self, message: str) -> NoReturn:
        print(f"streamchar: {message}\n  try: {self.prog} --help", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="streamchar", description="Streaming characters that speak what is typed.")
    parser.add_argument("--version", action="version", version=f"streamchar {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", default="mini", metavar="NAME|FOLDER", help="shipped model or bundle (default: mini)")
    dtype = {
        "choices": ("auto", "fp32", "bf16", "int8"), "default": "auto",
        "help": "of weights (default: bf16 with AMX, int8 with VNNI, else fp32 and int8 for pictures)",
    }  # fmt: skip
    engine = argparse.ArgumentParser(add_help=False, parents=[common])
    engine.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    engine.add_argument("--kernels", choices=("auto", "native", "reference"), default="auto")
    engine.add_argument("--dtype", **dtype)
    engine.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same bytes (default: 0)")
    engine.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    engine.add_argument("-q", "--quiet", action="store_true", help="no progress bar")

    say = commands.add_parser("say", parents=[engine], help="speak a text into a file")
    say.add_argument("text", nargs="*", help="what to say; - or nothing: standard input. [happy] and the like are cues")
    say.add_argument("-f", "--file", metavar="FILE", help="text file to speak; -: standard input")
    say.add_argument("-o", "--out", required=True, metavar="OUT", help=".mp4, .webm (alpha), .wav, or a folder of PNG")
    say.add_argument("-c", "--character", metavar="NAME|PICTURE", help="shipped character or a picture")
    say.add_argument("--voice", metavar="NAME", help="default: the character's")
    say.add_argument("--emotion", metavar="NAME", help="from the beginning on")
    say.add_argument("--record", metavar="FILE", help="also record the session, for streamchar replay")
    say.set_defaults(run=_say)

    replay = commands.add_parser("replay", parents=[common], help="live a recorded session again, byte for byte")
    replay.add_argument("recording", metavar="FILE", help="what --record or a Recorder wrote")
    replay.add_argument("-o", "--out", metavar="OUT", help=".mp4, .webm (alpha), .wav, or a folder of PNG")
    replay.add_argument("--check", action="store_true", help="stop at the first chunk that is not the recorded one")
    replay.add_argument("-c", "--character", metavar="PICTURE", help="where the character is not a shipped one")
    replay.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    replay.add_argument("--kernels", choices=("auto", "native", "reference"), default="auto")
    replay.add_argument("--dtype", **dtype)
    replay.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    replay.set_defaults(run=_replay)

    characters = commands.add_parser("characters", parents=[common], help="list the shipped characters")
    characters.add_argument("-o", "--out", metavar="SHEET.png", help="also draw a contact sheet")
    characters.add_argument("--json", action="store_true")
    characters.set_defaults(run=_characters)

    doctor = commands.add_parser("doctor", parents=[common], help="say what this machine has, and what is slow and why")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--quick", action="store_true", help="measure nothing")
    doctor.set_defaults(run=_doctor)

    bench = commands.add_parser("bench", parents=[engine], help="measure the real-time factor, stage by stage")
    bench.add_argument("--chunks", type=int, default=100, metavar="N", help="chunks to measure (default: 100)")
    bench.add_argument("--json", action="store_true", help="one row of JSON")
    bench.set_defaults(run=_bench)

    from .profile import EPILOG

    profile = commands.add_parser(
        "profile", parents=[engine], help="say where a chunk's time goes, op by op, beside the machine's limits",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    profile.add_argument("--chunks", type=int, default=4, metavar="N", help="chunks to record (default: 4)")
    profile.add_argument("--top", type=int, default=25, metavar="N", help="rows to print (default: 25)")
    profile.add_argument("--trace", metavar="FILE", help="write every op call as a Chrome trace")
    profile.add_argument("--json", action="store_true", help="facts, stages, ceilings and all rows as JSON")
    profile.set_defaults(run=_profile)
    return parser
