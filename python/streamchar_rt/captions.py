"""Captions from words and their times: SubRip (.srt) and WebVTT (.vtt)."""
from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .chunk import Word
from .errors import ConfigError, OutputError

LINE = 42  # characters, a usual limit for subtitles
LONGEST = 6.0  # seconds that a caption stands
PAUSE = 0.7  # seconds of silence at which a new caption begins


@dataclass(frozen=True)
class Caption:
    """Words that stand together; seconds."""

    begin: float
    end: float
    text: str


def captions(words: Iterable[Word], sample_rate: int) -> list[Caption]:
    """Groups words: a new caption at the end of a sentence, at a pause, and before it grows too long.

    Args:
        words: in the order in which they are spoken; texts are the words as pushed, without their marks.
        sample_rate: of their times.
    """
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else None
        if group is None or _parts(group, word, sample_rate):
            groups.append([word])
        else:
            group.append(word)
    result = []
    for i, group in enumerate(groups):
        end = max(word.end_pts for word in group) / sample_rate
        if i + 1 < len(groups):
            end = min(end, groups[i + 1][0].begin_pts / sample_rate)  # the last word's end may be an estimate
        result.append(Caption(group[0].begin_pts / sample_rate, end, " ".join(word.text for word in group)))
    return result


def write_captions(path: str | os.PathLike[str], words: Iterable[Word], sample_rate: int) -> None:
    """Writes captions, in the format that the path's ending names.

    Raises:
        ConfigError: for another ending than .srt or .vtt.
        OutputError: where the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".srt", ".vtt"):
        raise ConfigError(f"{path} is neither .srt nor .vtt", hint="name the file captions.srt or captions.vtt")
    found = captions(words, sample_rate)
    blocks = ["WEBVTT\n"] if kind == ".vtt" else []
    for number, caption in enumerate(found, 1):
        begin, end = (_clock(seconds, "," if kind == ".srt" else ".") for seconds in (caption.begin, caption.end))
        text = caption.text if kind == ".srt" else _escaped(caption.text)
        blocks.append(f"{number}\n{begin} --> {end}\n{text}\n")
    try:
        path.write_text("\n".join(blocks), encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error


def _parts(group: list[Word], word: Word, rate: int) -> bool:
    last = group[-1]
    length = sum(len(each.text) + 1 for each in group) + len(word.text)
    return (
        word.begin_pts - last.end_pts > PAUSE * rate
        or word.end_pts - group[0].begin_pts > LONGEST * rate
        or length > LINE
        or word.text_offset < last.text_offset  # another turn
    )


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
