"""Engines: a model on a device, shared by sessions."""
from __future__ import annotations

import gc
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from . import machine
from .batch_step import step_ready
from .bundle import LETTER_TO_SOUND, LEXICON, Bundle, open_bundle
from .character import Character, is_character_file, read_character_file
from .chunk import Chunk, StageTimings
from .config import EngineConfig, SessionConfig, StreamInfo, check_number, with_overrides
from .errors import BundleError, ConfigError, DeviceMemoryError, StateError, UnsupportedError
from .gathering import Gathering
from .threads import compute_threads, import_torch

if TYPE_CHECKING:
    from .orchestrator.pronounce import Pronouncer
    from .orchestrator.transcript import Transcript
    from .session import Session

Progress = Callable[[float, str], None]
_PACKED = ("bf16", "int8")


class Engine:
    """Immutable: weights, device, kernels and memory plan. One per model and device; make it with ``load``."""

    info: StreamInfo

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "mini",
        config: EngineConfig | None = None,
        *,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Engine:
        """Loads a model.

        Args:
            model: a shipped model's name, or a bundle's folder.
            progress: called as ``progress(fraction, what)``.
            overrides: single options of ``EngineConfig``.

        Raises:
            BundleError: where the bundle is missing, damaged or of another version.
            UnsupportedError: for a device that is not there, or a number format that it does not run.
            DeviceMemoryError: where the plan does not fit ``device_memory_limit``, or a GPU's free memory.
        """
        config = with_overrides(EngineConfig, config, overrides)
        report = progress or (lambda fraction, what: None)
        report(0.0, "opening the bundle")
        bundle = open_bundle(model)
        _element_bytes(config)
        _check_memory(bundle, config)
        bundle.verify()
        report(0.2, "loading the runtime")
        import_torch()
        _check_device(bundle, config)
        from . import pipeline
        from .orchestrator.letter_to_sound import LetterToSound
        from .orchestrator.lexicon import Lexicon
        from .orchestrator.pronounce import Pronouncer

        report(0.7, "reading weights")
        threads = config.threads or machine.usable_cores()
        try:
            models = pipeline.Models.from_parts(
                bundle.manifest, bundle.tensors(), threads=threads, kernels=config.kernels,
                storage=_storage(config), picture_dtype=_picture_dtype(config),
                packed_pictures=_packed_pictures(config), placement=_placement(config),
            )
            pronouncer = Pronouncer(
                Lexicon.load(bundle.path(LEXICON)), LetterToSound.load(bundle.path(LETTER_TO_SOUND))
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(
                f"the parts of {bundle.folder} do not fit together: {error}",
                hint="export the bundle again with this version of the tools",
            ) from error
        machine.return_free_memory()  # weights in the form that they were read in
        report(1.0, "ready")
        return cls(bundle, config, pipeline, models, pronouncer, threads)

    def __init__(
        self,
        bundle: Bundle,
        config: EngineConfig,
        pipeline: ModuleType,
        models: Any,
        pronouncer: Pronouncer,
        threads: int,
    ) -> None:
        self.info = bundle.info
        self.config = config
        self.bundle = bundle
        self.pipeline = pipeline
        self.models = models
        self.threads = threads
        self.dtype: str = _dtype(config)  # of the transformer's weights: what "auto" came to
        self.picture_dtype: str = _picture_name(config)  # of the video decoder's
        self.default_steps: int = bundle.steps
        self.session_bytes = _plan(bundle, config, 1)["session"]
        self._pronouncer = pronouncer
        self._compute = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._listing = threading.Lock()  # guards the next four
        self._coming = 0  # sessions that are being made
        self._counter = itertools.count()
        self._order: weakref.WeakKeyDictionary[Session, int] = weakref.WeakKeyDictionary()  # of their last chunks
        self.gathering = Gathering(self)  # of the sessions that have threads of their own
        self.stirred = threading.Event()  # set whenever a session may have something to do
        self._characters: dict[tuple[str, str], Character] = {}
        self._closed = False

    # ------------------------------------------------------------ facts
    @staticmethod
    def estimate_memory(
        model: str | os.PathLike[str] = "mini", config: EngineConfig | None = None
    ) -> Mapping[str, int]:
        """Bytes that an engine would take, without loading it: weights, session, sessions, workspace, total.

        A session with a larger ``max_lead`` than the default takes more.
        """
        config = with_overrides(EngineConfig, config, {})
        return _plan(open_bundle(model), config, config.max_sessions)

    def memory(self) -> Mapping[str, int]:
        """Bytes: the plan's parts for the sessions that are open, and of the whole process now and at most."""
        plan = _plan(self.bundle, self.config, len(self._sessions))
        return {**plan, "process": machine.resident_bytes(), "process_peak": machine.peak_bytes()}

    def characters(self) -> tuple[str, ...]:
        """Names of the characters shipped in the bundle; the first one is the default."""
        return tuple(self.bundle.characters)

    def voices(self) -> tuple[str, ...]:
        return self.bundle.voices

    def emotions(self) -> tuple[str, ...]:
        """Names that a cue may have to show in the picture."""
        return self.bundle.emotions

    # ------------------------------------------------------------ characters and sessions
    def character(self, image: Any, *, voice: str | None = None) -> Character:
        """Encodes a character.

        Args:
            image: a shipped name, the path of a picture or of a saved character, a PIL image, or an array
                (height, width, 3 or 4). Pictures should show head and shoulders, facing the viewer.
            voice: None: the shipped character's own, or the model's first.

        Raises:
            ConfigError: for an unknown name or voice, or a picture that cannot be used.
        """
        self._check_open()
        if voice is not None and voice not in self.voices():
            raise ConfigError(f"there is no voice {voice!r}", hint="voices: " + ", ".join(self.voices()))
        if isinstance(image, str) and image in self.bundle.characters:
            return self._shipped(image, voice)
        if isinstance(image, str) and not Path(image).suffix and not Path(image).exists():
            raise ConfigError(
                f"there is no character {image!r}", hint="shipped: " + ", ".join(self.characters()) + "; or a picture"
            )
        if isinstance(image, (str, os.PathLike)) and is_character_file(Path(image)):
            return self._saved(Path(image), voice)
        name = Path(image).stem if isinstance(image, (str, os.PathLike)) else "picture"
        return self._encode(name, image, voice or self.voices()[0])

    def _shipped(self, name: str, voice: str | None) -> Character:
        entry = self.bundle.characters[name]
        key = (name, voice or entry.voice)
        if key not in self._characters:
            self._characters[key] = self._encode(name, self.bundle.path(entry.file), key[1])
        return self._characters[key]

    def _saved(self, path: Path, voice: str | None) -> Character:
        metadata, picture, tensors = read_character_file(path)
        voice = voice or (metadata["voice"] if metadata["voice"] in self.voices() else self.voices()[0])
        digest = self.bundle.manifest["digest"]
        if metadata["model"] != digest:
            return self._encode(metadata["name"], picture, voice)
        features = self.pipeline.CharacterFeatures.from_tensors(self.models, tensors)
        return Character(metadata["name"], voice, picture, features, digest)

    def _encode(self, name: str, image: Any, voice: str) -> Character:
        from .picture import load_picture

        picture = load_picture(image, self.info.width, self.info.height)
        with self.computing():
            features = self.pipeline.encode_character(self.models, picture)
        return Character(name, voice, picture, features, self.bundle.manifest["digest"])

    def session(
        self, character: Character | str | Any, config: SessionConfig | None = None, **overrides: Any
    ) -> Session:
        """Starts a live character.

        Args:
            character: a ``Character``, or what ``character()`` takes.
            overrides: single options of ``SessionConfig``.

        Raises:
            DeviceMemoryError: where ``max_sessions`` are open, which the memory is planned for.
            UnsupportedError: for an option that this version or device does not have.
        """
        from .session import Session

        self._check_open()
        config = with_overrides(SessionConfig, config, overrides)
        if config.memory != "host":
            raise UnsupportedError(f"memory={config.memory!r} needs a CUDA engine", hint='use memory="host"')
        with self._listing:
            self._check_room()  # before the picture is encoded
        if not isinstance(character, Character):
            character = self.character(character)
        elif character.model != self.bundle.manifest["digest"]:
            raise ConfigError(f"{character!r} was encoded by another model", hint="encode it with this engine")
        return self.admit(lambda: Session(self, character, config))

    def admit(self, make: Callable[[], Session]) -> Session:
        """Counts a new session, where there is room for one more."""
        self._check_open()
        with self._listing:
            self._check_room()
            self._coming += 1
        try:
            session = make()
            with self._listing:
                self._order[session] = next(self._counter)
                self._sessions.add(session)
        finally:
            with self._listing:
                self._coming -= 1
        return session

    def step(self, timeout: float | None = None) -> list[tuple[Session, Chunk]]:
        """The next chunk of every session that is ready, generated together.

        Ready are sessions that are stepped by hand, not paused, and have something to do. Each one's chunks are
        the same bytes as if it were stepped alone. Where more are ready than one batch takes (8), those go first
        whose last chunk is longest ago. Their timings are of the whole batch.

        Args:
            timeout: seconds to wait for a session to become ready; None: does not wait.

        Returns:
            The sessions with their chunks; empty where none was ready.
        """
        until = time.monotonic() + (0.0 if timeout is None else check_number("timeout", timeout, 0.0, 1e6))
        while True:
            self._check_open()
            self.stirred.clear()
            with self._listing:
                sessions = sorted(self._sessions, key=self._order.__getitem__)
            done = step_ready(self, sessions)
            with self._listing:
                self._order.update((session, next(self._counter)) for session, _ in done)
            left = until - time.monotonic()
            if done or left <= 0:
                return done
            # Text that is not finished is spoken after a while without any further call.
            self.stirred.wait(min(left, self.info.chunk_seconds))

    def warmup(self, *, sessions: int | None = None) -> StageTimings:
        """Generates two chunks that nobody sees, so that the first real one is not slower; times of the second.

        Args:
            sessions: how many streams to try side by side; None: 1.
        """
        from .session import Session

        self._check_open()
        character = self.character(self.characters()[0])
        streams = [Session(self, character, SessionConfig()) for _ in range(sessions or 1)]
        for stream in streams:
            stream.say("Warming up.")
        timings = [[stream.step().timings for stream in streams] for _ in range(2)]
        return max(timings[-1], key=lambda entry: entry.total_ms)

    # ------------------------------------------------------------ life
    def trim(self) -> None:
        """Gives back what can be made again, encodings of shipped characters that no session uses, and free memory."""
        self._characters.clear()
        gc.collect()
        machine.return_free_memory()

    def close(self) -> None:
        """Closes all sessions. Calling it twice is harmless."""
        with self._listing:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        self._closed = True
        self._characters.clear()
        models, self.models = self.models, None
        if models is not None:
            models.lanes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.bundle.name!r} threads={self.threads} sessions={len(self._sessions)}>"

    # ------------------------------------------------------------ for sessions
    @property
    def audio_lead(self) -> int:
        """Half-frames by which the audio's plan leads the clock."""
        return int(self.models.denoiser.layout.audio_lead * 2)

    @property
    def shared_text_tools(self) -> tuple[Any, ...]:
        return (self._pronouncer,)

    def transcripts(self, *, tags: bool) -> Callable[[], Transcript]:
        """Makes the text front end of one turn after another."""
        from .orchestrator.transcript import Transcript

        return lambda: Transcript(self._pronouncer, tags=tags)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Holds the processor: one chunk at a time, with this engine's threads."""
        with self._compute, compute_threads(self.threads):
            self._check_open()
            yield

    def new_state(self, character: Character, seed: int) -> Any:
        return self.pipeline.StreamState(self.models, character.features, seed)

    def import_state(self, features: Any, content: Mapping[str, Any]) -> Any:
        """The model's state from what its ``export()`` gave."""
        return self.pipeline.StreamState.from_export(self.models, features, content)

    def generate(
        self, state: Any, style: tuple[int, int, int], steps: int, should_stop: Callable[[], bool] | None = None
    ) -> Any:
        """One raw chunk; ``style``: the model's indices of voice, emotion and mode. None where it was stopped."""
        style = self.pipeline.Style(*style)
        return self.pipeline.generate_chunk(self.models, state, style, steps=steps, should_stop=should_stop)

    def generate_together(
        self,
        states: Sequence[Any],
        styles: Sequence[tuple[int, int, int]],
        steps: int,
        should_stop: Sequence[Callable[[], bool]],
        finish: Callable[[int, Any], Any] = lambda i, raw: raw,
    ) -> list[Any]:
        """What ``finish`` makes of each stream's number and ``generate``, in any thread and several at a time."""
        styles = [self.pipeline.Style(*style) for style in styles]
        return self.pipeline.generate_chunks(
            self.models, states, styles, steps=steps, should_stop=should_stop, finish=finish
        )

    def forget(self, session: Session) -> None:
        with self._listing:
            self._sessions.discard(session)
        machine.return_free_memory()

    def _check_room(self) -> None:
        count, planned = len(self._sessions) + self._coming, self.config.max_sessions
        if count >= planned:
            required, available = (_plan(self.bundle, self.config, n)["total"] for n in (count + 1, planned))
            raise DeviceMemoryError(
                f"{count} of {planned} sessions are open; one more needs {required} bytes and {available} are planned",
                hint="close one, or load the engine with a higher max_sessions",
                required_bytes=required,
                available_bytes=available,
            )

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("the engine is closed", hint="load it again")


def _on_cuda(config: EngineConfig) -> bool:
    """Chunks have been verified on a GPU, live sessions have not: "auto" is the CPU."""
    return config.device.startswith("cuda")


def _check_device(bundle: Bundle, config: EngineConfig) -> None:
    """That the GPU asked for is there, and takes the plan."""
    if not _on_cuda(config):
        return
    import torch

    if not torch.cuda.is_available() or (torch.device(config.device).index or 0) >= torch.cuda.device_count():
        raise UnsupportedError(f"there is no device {config.device!r} here", hint='use device="cpu" or "auto"')
    from . import allocation

    plan = allocation.memory_plan(
        bundle.manifest, _placement(config), sessions=config.max_sessions, slots=config.slots_per_session,
        kernels=config.kernels,
    )
    plan.check(config.device_memory_limit or allocation.available_bytes(torch.device(config.device)))


def _placement(config: EngineConfig) -> Any:
    """Where a chunk stays, on a GPU; None on the CPU."""
    if not _on_cuda(config):
        return None
    import torch

    from .resident import Placement

    device = torch.device("cuda", torch.device(config.device).index or 0)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[_dtype(config)]
    return Placement(device, dtype, graphs=config.cuda_graphs, nvtx=config.nvtx)


def _plan(bundle: Bundle, config: EngineConfig, sessions: int) -> dict[str, int]:
    return bundle.memory_plan(
        sessions=sessions, element_bytes=_element_bytes(config), slots=config.slots_per_session
    )


def _check_memory(bundle: Bundle, config: EngineConfig) -> None:
    if config.device_memory_limit is None:
        return
    required = _plan(bundle, config, config.max_sessions)["total"]
    if required > config.device_memory_limit:
        raise DeviceMemoryError(
            f"{required} bytes are needed and device_memory_limit is {config.device_memory_limit}",
            hint="lower max_sessions or raise the limit; Engine.estimate_memory() gives the plan",
            required_bytes=required,
            available_bytes=config.device_memory_limit,
        )


def _element_bytes(config: EngineConfig) -> int:
    """Bytes of a weight, at most: the denoiser's are fewer where they are packed."""
    if _on_cuda(config):
        if config.dtype not in ("auto", "bf16", "fp32"):
            raise UnsupportedError(
                f"dtype={config.dtype!r} is not available on a GPU", hint='use dtype="auto", "bf16" or "fp32"'
            )
        return 4 if config.dtype == "fp32" else 2
    if config.dtype not in ("auto", "fp32", *_PACKED):
        raise UnsupportedError(
            f"dtype={config.dtype!r} is not available on the CPU", hint='use dtype="auto", "fp32", "bf16" or "int8"'
        )
    if config.dtype in _PACKED and config.kernels == "reference":
        raise ConfigError(f"dtype={config.dtype!r} needs the native kernels", hint='use dtype="fp32" or kernels="auto"')
    return 4


def _storage(config: EngineConfig) -> Literal["fp32", "bf16", "int8"]:
    """How the denoiser's weights are kept. "auto" narrows them where that is faster: to bfloat16 with AMX, to int8 with
    VNNI alone."""
    from .ops import PackedLinear

    if _on_cuda(config):
        return "fp32"
    if config.dtype == "auto":
        pays = [] if config.kernels == "reference" else [storage for storage in _PACKED if PackedLinear.pays(storage)]
        return pays[0] if pays else "fp32"
    return config.dtype if config.dtype in _PACKED else "fp32"


def _dtype(config: EngineConfig) -> str:
    if _on_cuda(config):
        return "bf16" if config.dtype == "auto" else config.dtype
    return _storage(config)


def _picture_dtype(config: EngineConfig) -> Any:
    """bfloat16 convolutions where the processor multiplies tiles of it (AMX); elsewhere they are slower."""
    import torch

    from .ops import PackedLinear

    narrow = _storage(config) != "fp32" and PackedLinear.pays("bf16")
    return torch.bfloat16 if narrow else torch.float32


def _packed_pictures(config: EngineConfig) -> bool:
    """int8 convolutions where they are the fastest: without AMX."""
    from .ops import PackedConv, PackedLinear

    wanted = config.dtype in ("auto", "int8") and config.kernels != "reference" and not _on_cuda(config)
    return wanted and PackedConv.pays() and not PackedLinear.pays("bf16")


def _picture_name(config: EngineConfig) -> str:
    if _on_cuda(config):
        return _dtype(config)
    return "int8" if _packed_pictures(config) else {2: "bf16", 4: "fp32"}[_picture_dtype(config).itemsize]
