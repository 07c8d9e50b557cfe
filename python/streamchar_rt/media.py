"""Writing chunks to files as they come: .mp4, .webm with alpha, .wav, or a folder of PNG frames.

Writers hold one chunk at a time. A file appears under its name when it is complete; until then it lies beside it
as ``.NAME.part``.
"""
from __future__ import annotations

import os
import wave
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .chunk import Chunk
from .config import StreamInfo
from .errors import ConfigError, OutputError, UnsupportedError
from .pixels import compose


class Writer(ABC):
    """Takes the chunks of one stream in order, video as RGBA or RGB.

    Use it as a context manager around the stream: on success the file is completed, on an error it is removed.
    Where the chunks' reader just stops, or the user does, what was written is completed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_open = False

    def write(self, chunk: Chunk, info: StreamInfo) -> None:
        """Writes one chunk; the first one opens the file.

        Raises:
            OutputError: where it cannot be written.
        """
        with output_errors(self.path):
            if not self._is_open:
                self._is_open = True
                self._open(info, chunk.pts)
            self._write(chunk)

    def close(self) -> None:
        """Completes the file; nothing happens where nothing was written.

        Raises:
            OutputError: where it cannot be written; it is removed then.
        """
        if not self._is_open:
            return
        try:
            with output_errors(self.path):
                self._close()
        except BaseException:
            self.discard()
            raise
        self._is_open = False

    def discard(self) -> None:
        """Removes what was written, as far as the system lets it."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):
                self._discard()

    @abstractmethod
    def _open(self, info: StreamInfo, pts: int) -> None: ...

    @abstractmethod
    def _write(self, chunk: Chunk) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _discard(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, (GeneratorExit, KeyboardInterrupt)):
            self.close()
        else:
            self.discard()


def open_writer(path: str | os.PathLike[str]) -> Writer:
    """The writer for a path: by its ending, or a folder of frames where it has none.

    Raises:
        ConfigError: for an ending that is not known.
        OutputError: where the file or folder could not be written; nothing is left there.
        UnsupportedError: where PyAV is needed and not installed.
    """
    path = Path(path)
    kind = path.suffix.lower()
    with output_errors(path):
        if kind in _CONTAINERS:
            _check_file(path)
            return _ContainerWriter(path, _CONTAINERS[kind])
        if kind == ".wav":
            _check_file(path)
            return _WavWriter(path)
        if kind and not path.is_dir():
            raise ConfigError(f"{path}: {kind} files cannot be written", hint=".mp4, .webm, .wav, or a folder's name")
        _check_folder(path)
        return _FolderWriter(path)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns what the system or FFmpeg says about ``path`` into OutputError."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:  # FFmpeg's input and output errors are OSErrors too
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: {reason}", hint="choose another place") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="give a file's name")
    _check_parent(path)
    part = _part(path)
    part.touch()
    part.unlink()


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file", hint="give a folder's name, or end it in .mp4, .webm or .wav")
    if path.is_dir():
        if any(path.iterdir()):
            raise OutputError(f"the folder {path} is not empty", hint="give a new one")
        probe = path / ".part"
        probe.touch()
        probe.unlink()
    else:
        _check_parent(path)
        path.mkdir()
        path.rmdir()


def _check_parent(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {path.absolute().parent}", hint="make it first")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _pcm16(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    return np.round(np.clip(audio, -1.0, 1.0) * 32767.0).astype("<i2")


class _WavWriter(Writer):
    """16-bit mono."""

    def _open(self, info: StreamInfo, pts: int) -> None:
        self._file = wave.open(str(_part(self.path)), "wb")
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(info.sample_rate)

    def _write(self, chunk: Chunk) -> None:
        self._file.writeframes(_pcm16(chunk.audio).tobytes())

    def _close(self) -> None:
        self._file.close()
        os.replace(_part(self.path), self.path)

    def _discard(self) -> None:
        try:
            self._file.close()
        finally:
            _part(self.path).unlink(missing_ok=True)


class _FolderWriter(Writer):
    """frame_000000.png …, with alpha, and audio.wav."""

    def _open(self, info: StreamInfo, pts: int) -> None:
        self.path.mkdir(exist_ok=True)
        self._sound = _WavWriter(self.path / "audio.wav")
        self._info = info
        self._frames = 0

    def _write(self, chunk: Chunk) -> None:
        from PIL import Image

        self._sound.write(chunk, self._info)
        for pixels in chunk.video:
            # Fast compression: PNG is here for editing, not for storage.
            Image.fromarray(pixels).save(self.path / f"frame_{self._frames:06d}.png", compress_level=1)
            self._frames += 1

    def _close(self) -> None:
        self._sound.close()

    def _discard(self) -> None:
        self._sound.discard()
        for i in range(self._frames):
            (self.path / f"frame_{i:06d}.png").unlink(missing_ok=True)
        self.path.rmdir()


@dataclass(frozen=True)
class _Container:
    """How one kind of file is made by FFmpeg."""

    format: str
    video_codecs: tuple[str, ...]  # the first that this FFmpeg has
    pixel_format: str
    audio_codecs: tuple[str, ...]
    audio_bit_rate: int
    video_options: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)


_CONTAINERS = {
    ".mp4": _Container(
        "mp4", ("libx264", "libopenh264", "h264"), "yuv420p", ("aac",), 96_000,
        {"crf": "18", "preset": "veryfast"}, {"movflags": "+faststart"},
    ),
    ".webm": _Container(
        "webm", ("libvpx-vp9",), "yuva420p", ("libopus",), 64_000,
        # Alternate reference frames do not go with alpha.
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1", "auto-alt-ref": "0"},
    ),
}  # fmt: skip


class _ContainerWriter(Writer):
    def __init__(self, path: Path, kind: _Container) -> None:
        super().__init__(path)
        self._kind = kind
        self._av = _import_av()
        for codecs in (kind.video_codecs, kind.audio_codecs):
            self._first_codec(codecs)

    def _first_codec(self, names: tuple[str, ...]) -> str:
        for name in names:
            try:
                self._av.codec.Codec(name, "w")
                return name
            except self._av.codec.codec.UnknownCodecError:
                continue
        raise UnsupportedError(
            f"this PyAV has no encoder {' or '.join(names)}", hint="install another PyAV, or write .wav or a folder"
        )

    def _open(self, info: StreamInfo, pts: int) -> None:
        kind = self._kind
        self._first_pts = pts
        self._samples_per_frame = Fraction(info.sample_rate) / info.fps
        self._container = self._av.open(str(_part(self.path)), "w", format=kind.format, options=kind.options)
        self._video = self._container.add_stream(
            self._first_codec(kind.video_codecs), rate=info.fps, options=dict(kind.video_options)
        )
        self._video.width, self._video.height = info.width, info.height
        self._video.pix_fmt = kind.pixel_format
        self._frame_time = 1 / info.fps  # the muxer changes the stream's own time base
        self._video.codec_context.time_base = self._frame_time
        self._audio = self._container.add_stream(
            self._first_codec(kind.audio_codecs), rate=info.sample_rate, layout="mono"
        )
        self._audio.bit_rate = kind.audio_bit_rate
        self._rate = info.sample_rate

    def _write(self, chunk: Chunk) -> None:
        begin = chunk.pts - self._first_pts
        sound = self._av.AudioFrame.from_ndarray(_pcm16(chunk.audio)[None], format="s16", layout="mono")
        sound.sample_rate = self._rate
        sound.pts, sound.time_base = begin, Fraction(1, self._rate)
        self._container.mux(self._audio.encode(sound))
        first = round(begin / self._samples_per_frame)
        for i, pixels in enumerate(chunk.video):
            frame = self._frame(pixels)
            frame.pts, frame.time_base = first + i, self._frame_time
            self._container.mux(self._video.encode(frame))

    def _frame(self, pixels: npt.NDArray[np.uint8]) -> Any:
        has_alpha = pixels.shape[-1] == 4
        if has_alpha and not self._kind.pixel_format.startswith("yuva"):
            pixels, has_alpha = compose(pixels), False
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if has_alpha else "rgb24")
        return frame.reformat(format=self._kind.pixel_format)

    def _close(self) -> None:
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()
        os.replace(_part(self.path), self.path)

    def _discard(self) -> None:
        try:
            self._container.close()
        finally:
            _part(self.path).unlink(missing_ok=True)


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UnsupportedError(
            "writing .mp4 and .webm needs PyAV", hint='pip install "streamchar-rt[media]", or write .wav or a folder'
        ) from error
    return av
