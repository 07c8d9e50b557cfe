"""The public names, fields, defaults and signatures: renaming or removing one breaks applications."""
from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import streamchar_rt

CONTRACT = """
class StreamCharError(Exception)
    code
    hint
class ConfigError(StreamCharError, ValueError)
class BundleError(StreamCharError)
class UnsupportedError(StreamCharError)
class DeviceMemoryError(StreamCharError, MemoryError)
    required_bytes
    available_bytes
class DeviceLostError(StreamCharError)
class SessionClosedError(StreamCharError)
class StateError(StreamCharError)
class Mode(str, Enum)
    IDLE = 'idle'
    LISTENING = 'listening'
    SPEAKING = 'speaking'
class StreamInfo()
    sample_rate
    fps
    width
    height
    chunk_frames
    chunk_samples
    alpha_mode
    capabilities
class Word()
    text
    text_offset
    begin_pts
    end_pts
class Viseme()
    id
    weight
    begin_pts
    end_pts
class VideoFrame()
    pixels
    pts
class StageTimings()
    orchestrator_ms
    context_ms
    denoise_ms
    audio_decode_ms
    video_decode_ms
    total_ms
    real_time_factor
    denoise_steps
    deadline_slack_ms
class Chunk(Protocol)
    turn_id
    index
    pts
    duration
    audio
    video
    words
    visemes
    mode
    end_of_turn
    discontinuity
    timings
    frames(self)
    audio_dlpack(self)
    video_dlpack(self)
    copy(self)
    release(self)
class Interruption()
    turn_id
    cut_pts
    spoken_text
    unspoken_text
    dropped_chunks
    stop_latency_ms
class EngineConfig()
    device = 'auto'
    dtype = 'auto'
    threads = None
    max_sessions = 1
    device_memory_limit = None
    slots_per_session = 3
    cuda_graphs = True
    kernels = 'auto'
    nvtx = False
class SessionConfig()
    seed = 0
    steps = None
    adaptive_steps = True
    pixel_format = 'rgba'
    memory = 'host'
    max_lead = 1.0
    idle = 'generate'
    interrupt_fade = 0.04
    markup = 'tags'
    max_pending_text = 16384
    threading = 'manual'
class Character(Protocol)
    name
    save(self, path)
class Snapshot(Protocol)
    nbytes
    to_bytes(self)
    save(self, path)
class Session(Protocol)
    info
    mode
    pending_text
    push_text(self, text)
    push_stream(self, pieces)
    cue(self, name, *, strength=1.0, duration=None)
    flush(self)
    end_turn(self)
    say(self, text)
    listen(self)
    rest(self)
    interrupt(self, heard_pts=None)
    pause(self)
    resume(self)
    reset(self, *, seed=None)
    report_playback(self, pts)
    step(self, timeout=None)
    turn(self)
    __iter__(self)
    __aiter__(self)
    snapshot(self, *, memory='host')
    restore(self, snapshot)
    fork(self, *, seed=None)
    stats(self)
    on_event(self, callback)
    close(self)
    __enter__(self)
    __exit__(self, t, e, tb)
class Engine(Protocol)
    info
    load(cls, model='mini', config=None, *, progress=None, **overrides)
    estimate_memory(model='mini', config=None)
    warmup(self, *, sessions=None)
    characters(self)
    voices(self)
    character(self, image, *, voice=None)
    session(self, character, config=None, **overrides)
    step(self, timeout=None)
    memory(self)
    trim(self)
    close(self)
    __enter__(self)
    __exit__(self, t, e, tb)
generate(text, *, model='mini', character=None, voice=None, out=None, seed=0)
"""


def parse():
    """(class or function, member or None, arguments or default)"""
    owner = ""
    for line in CONTRACT.strip().splitlines():
        if line.startswith("class "):
            owner = line[6:].split("(")[0]
        elif not line.startswith("    "):
            yield line.split("(")[0], None, line[line.index("(") :]
        else:
            name, _, default = line.strip().partition(" = ")
            if "(" in name:
                name, arguments = line.strip().split("(", 1)
                yield owner, name, "(" + arguments
            else:
                yield owner, name, default


def bare(function) -> str:
    """A signature without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def plain(signature: str) -> str:
    return signature.replace(" ", "").replace('"', "'")


@pytest.mark.parametrize(("owner", "member", "expected"), list(parse()))
def test_member(owner, member, expected):
    thing = getattr(streamchar_rt, owner)
    if member is None:
        assert plain(bare(thing)) == plain(expected)
    elif expected.startswith("("):
        function = inspect.getattr_static(thing, member)
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        found = plain(bare(function)).split(",")
        wanted = plain(expected).split(",")
        if member == "__exit__":  # its arguments have no taught names
            assert len(found) == len(wanted)
        else:
            assert found == wanted
    elif dataclasses.is_dataclass(thing):
        field = {f.name: f for f in dataclasses.fields(thing)}[member]
        assert field.default is dataclasses.MISSING if not expected else repr(field.default) == expected
    elif issubclass(thing, str):
        assert thing[member].value == expected.strip("'")
    else:
        assert hasattr(thing, member) or member in getattr(thing, "__annotations__", {})


def test_errors_derive_as_promised():
    for line in CONTRACT.splitlines():
        if line.startswith("class ") and "Error" in line:
            name, bases = line[6:-1].split("(")
            for base in bases.split(", "):
                parent = getattr(streamchar_rt, base, None) or __builtins__[base]
                assert issubclass(getattr(streamchar_rt, name), parent)


def test_errors_carry_code_and_hint():
    error = streamchar_rt.ConfigError("wrong", hint="do this")
    assert (error.code, error.hint, str(error)) == ("SC_E_INVALID_ARGUMENT", "do this", "wrong (do this)")
    names = {name for name in streamchar_rt.__all__ if name.endswith("Error")} - {"SnapshotError"}
    codes = {getattr(streamchar_rt, name).code for name in names}
    assert streamchar_rt.SnapshotError.code == streamchar_rt.BundleError.code == "SC_E_FORMAT"
    assert len(codes) == len(names) and all(code.startswith("SC_E_") for code in codes)
    assert str(streamchar_rt.OutputError("no place", hint="elsewhere")) == "no place (elsewhere)"
    memory = streamchar_rt.DeviceMemoryError("full", required_bytes=2, available_bytes=1)
    assert (memory.required_bytes, memory.available_bytes) == (2, 1)


def test_options_are_checked():
    from streamchar_rt import ConfigError, EngineConfig, SessionConfig

    for kind, wrong in (
        (EngineConfig, {"device": "gpu"}), (EngineConfig, {"threads": 0}), (EngineConfig, {"dtype": "fp64"}),
        (EngineConfig, {"max_sessions": 1.5}), (SessionConfig, {"seed": -1}), (SessionConfig, {"steps": 0}),
        (SessionConfig, {"idle": "sleep"}), (SessionConfig, {"max_lead": float("nan")}),
        (SessionConfig, {"pixel_format": "rgba16"}), (SessionConfig, {"max_pending_text": True}),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            kind(**wrong)
    from streamchar_rt.config import with_overrides

    with pytest.raises(ConfigError, match="seed"):
        with_overrides(SessionConfig, None, {"sed": 1})
    assert with_overrides(SessionConfig, SessionConfig(steps=2), {"seed": 5}) == SessionConfig(steps=2, seed=5)


def test_import_is_light_and_without_side_effects():
    code = (
        "import os, sys, threading; before = dict(os.environ); import streamchar_rt; "
        "assert os.environ == before and threading.active_count() == 1; "
        "heavy = {'torch', 'numpy', 'transformers', 'av', 'PIL'} & set(sys.modules); assert not heavy, heavy; "
        "from streamchar_rt import SessionConfig, ConfigError, Mode; assert 'torch' not in sys.modules; "
        "assert set(streamchar_rt.__all__) <= set(dir(streamchar_rt))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        streamchar_rt.no_such_name
