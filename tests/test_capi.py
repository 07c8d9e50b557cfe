"""libstreamchar as a package: its ABI, its samples, and what it says to wrong calls."""
from __future__ import annotations

import ctypes
import os
import subprocess
import threading

import numpy as np
import pytest

from .capi_contexts import DIM, HEADS, LAYERS, facts, make_context, put, some_tokens
from .capi_problems import make_conv
from .capi_support import ROOT, configure_and_build, program, run

ABI = ROOT / "csrc/capi/abi.txt"


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the record is of machines with 64-bit addresses")
def test_abi_is_the_recorded_one(capi):
    """STREAMCHAR_RECORD_ABI=1 writes csrc/capi/abi.txt anew: only with additions, or with a new SC_ABI_MAJOR."""
    if os.environ.get("STREAMCHAR_RECORD_ABI"):
        ABI.write_text("\n".join(capi.facts) + "\n")
    assert capi.facts == ABI.read_text().splitlines()
    assert capi.sc_abi_version() == capi.SC_ABI_MAJOR << 16 | capi.SC_ABI_MINOR
    for name in capi.header.structs:     # this file's bindings see what the compiler sees
        assert f"struct {name} {ctypes.sizeof(getattr(capi, name))}" in capi.facts


def test_the_library_shows_its_functions_alone_and_needs_no_more_than_cpp(capi):
    dynamic = run(program("readelf"), "-W", "--dyn-syms", capi.path).splitlines()
    defined = [line.split() for line in dynamic if " UND " not in line and ("GLOBAL" in line or "WEAK" in line)]
    names = {row[7].split("@")[0] for row in defined}
    assert names == set(capi.header.functions)
    needed = [line for line in run(program("readelf"), "-d", capi.path).splitlines() if "NEEDED" in line]
    assert needed and not [line for line in needed if any(x in line for x in ("python", "torch", "gomp", "omp."))]
    assert capi.path.resolve().name.startswith(f"libstreamchar.so.{capi.SC_ABI_MAJOR}.")


def test_samples_build_against_the_installed_package_and_are_right(capi, tmp_path):
    configure_and_build(ROOT / "csrc/samples", tmp_path, f"-DCMAKE_PREFIX_PATH={capi.prefix}")
    for sample, lines in (("memory", 2), ("block", 1)):
        said = run(tmp_path / sample)
        assert said.count("as it should be") == lines == len(said.splitlines())


def test_version_is_the_packages(capi):
    from streamchar_rt import __version__

    assert capi.sc_version_string().decode() == __version__


@pytest.fixture
def context(capi):
    handle = ctypes.c_void_p()
    capi.call("sc_context_create", make_context(capi), ctypes.byref(handle))
    yield handle
    capi.sc_context_destroy(handle)


# ---------------------------------------------------------------- wrong calls
def test_wrong_calls_of_a_context_are_refused_and_change_nothing(capi, context, rng):
    invalid, state = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_INVALID_STATE
    five, eight = some_tokens(capi, rng, 5), some_tokens(capi, rng, 8)
    put(capi, context, 1, five)
    capi.call("sc_context_append", context, 0, 0, five)     # the sink is half staged
    out = np.full((8, HEADS, DIM), np.nan, np.float32)
    read = lambda segment, age=0: (capi.sc_read * 1)(capi.sc_read(segment, age, None))
    attend = "sc_context_attend"
    no_keys, no_values, no_queries, nobody, negative = (some_tokens(capi, rng, 5) for _ in range(5))
    no_keys.k.data = no_values.v.data = no_queries.q.data = None
    nobody.count, negative.count = 0, -1
    bad_norm = some_tokens(capi, rng, 5)
    weight, bounds = np.ones((1, DIM), np.float32), np.array([0, 4], np.int32)
    bad_norm.k_norm = capi.sc_head_norm(weight.ctypes.data, bounds.ctypes.data, 1, 1e-6)
    info = capi.make("sc_segment_info")
    big = 2**31 - 1
    before = facts(capi, context)
    wrong = [
        *[(invalid, "sc_context_append", context, layer, 0, five) for layer in (-1, LAYERS, big)],
        *[(invalid, "sc_context_append", context, 0, segment, five) for segment in (-1, 2, big)],
        *[(invalid, "sc_context_append", context, 0, 0, x)
          for x in (None, no_keys, no_values, nobody, negative, bad_norm)],
        (invalid, "sc_context_append", context, 0, 0, eight),     # does not fit the sink
        (invalid, "sc_context_append", None, 0, 0, five),
        (invalid, attend, context, 0, no_queries, None, 0, -1, out),
        (invalid, attend, context, LAYERS, five, None, 0, -1, out),
        (invalid, attend, context, 0, five, None, 1, -1, out),
        (invalid, attend, context, 0, five, None, -1, -1, out),
        (invalid, attend, context, 0, five, read(0), 1, -1, out),      # nothing live in the sink
        (invalid, attend, context, 0, five, read(1, 1), 1, -1, out),
        (invalid, attend, context, 0, five, read(1, -1), 1, -1, out),
        (invalid, attend, context, 0, five, read(7), 1, -1, out),
        (invalid, attend, context, 0, five, read(1), 1, 2, out),
        (invalid, attend, context, 0, five, read(1), 1, -2, out),
        (invalid, attend, context, 0, eight, read(1), 1, 1, out),      # too many to store
        (invalid, attend, context, 0, five, read(1), 1, 1, None),
        (state, "sc_context_commit", context, 0, capi.SC_NEXT_LABEL),  # one layer is missing
        (state, "sc_context_commit", context, 1, 3),                   # nothing is staged
        *[(invalid, f"sc_context_{verb}", context, 2) for verb in ("drop", "clear")],
        (invalid, "sc_context_commit", context, -1, 0),
        (invalid, "sc_context_rewind", context, -1, 0),
        (invalid, "sc_context_chunk", context, 1, 1, None, None),
        (invalid, "sc_context_chunk", context, 0, 0, None, None),
        (invalid, "sc_context_read", context, 1, 0, LAYERS, out, out),
        (invalid, "sc_context_read", context, 1, 0, 0, None, out),
        (invalid, "sc_context_segment_info", context, 2, info),
        (invalid, "sc_context_segment_info", context, 0, None),
        (invalid, "sc_context_bytes", context, None),
        (invalid, "sc_context_snapshot", context, None),
        (invalid, "sc_context_fork", context, None),
        (invalid, "sc_context_restore", context, None),
        (invalid, "sc_context_trim", None),
    ]
    for status, name, *arguments in wrong:
        capi.refuses(status, name, *arguments)
        assert facts(capi, context) == before
    assert np.isnan(out).all()
    for layer in range(1, LAYERS):   # and it still works
        capi.call("sc_context_append", context, layer, 0, five)
    capi.call("sc_context_commit", context, 0, capi.SC_NEXT_LABEL)


def test_a_chunk_that_is_gone_cannot_be_returned_to(capi, context, rng):
    for count in (3, 4, 5):
        put(capi, context, 1, some_tokens(capi, rng, count))
    before = facts(capi, context)
    assert "history" in capi.refuses(capi.SC_E_INVALID_STATE, "sc_context_rewind", context, 1, 0)
    assert facts(capi, context) == before
    capi.call("sc_context_rewind", context, 1, 1)
    for layer in range(LAYERS):
        capi.call("sc_context_append", context, layer, 1, some_tokens(capi, rng, 2))
    assert "rise" in capi.refuses(capi.SC_E_INVALID_STATE, "sc_context_commit", context, 1, 1)


def test_handles_of_another_kind_are_refused(capi, context):
    snapshot, linear = ctypes.c_void_p(), ctypes.c_void_p()
    weight = np.ones((3, 4), np.float32)
    conv = make_conv(capi, weight.reshape(1, 1, 1, 3, 4, 1, 1))
    capi.call("sc_context_snapshot", context, ctypes.byref(snapshot))
    capi.call("sc_linear_create", weight, None, 3, 4, capi.SC_BF16, ctypes.byref(linear))
    invalid = capi.SC_E_INVALID_ARGUMENT
    for other in (snapshot, linear, conv):
        assert "sc_context" in capi.refuses(invalid, "sc_context_trim", other)
    assert "sc_linear" in capi.refuses(invalid, "sc_linear_read", context, weight)
    assert "sc_conv" in capi.refuses(invalid, "sc_conv_read", linear, weight)
    assert "sc_snapshot" in capi.refuses(invalid, "sc_context_restore", context, linear)
    capi.sc_context_destroy(snapshot)        # refused: it lives on
    capi.call("sc_context_restore", context, snapshot)
    capi.sc_snapshot_destroy(snapshot)
    capi.sc_linear_destroy(linear)
    capi.sc_conv_destroy(conv)
    for kind in ("context", "snapshot", "linear", "conv", "joint_blocks", "language_model", "part_motion", "video_decoder",
                 "latent_drawing"):
        getattr(capi, f"sc_{kind}_destroy")(None)


def test_parameters_that_make_no_sense_are_refused(capi):
    invalid, unsupported = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED
    handle = ctypes.c_void_p(77)
    for status, changes in [
        *[(invalid, {field: value}) for field in ("layers", "heads", "segment_count") for value in (-1, 0, 2**31 - 1)],
        (invalid, {"segments": None}), (unsupported, {"head_dim": 96}), (unsupported, {"storage": 3}),
        (unsupported, {"storage": -1}), (invalid, {"chunks": 0}), (invalid, {"chunks": -2}),
    ]:
        params = make_context(capi, **changes) if "chunks" in changes else make_context(capi)
        for field, value in changes.items():
            if field != "chunks":
                setattr(params, field, value)
        capi.refuses(status, "sc_context_create", params, ctypes.byref(handle))
    wrong = [("capacity", 0), ("capacity", -5), ("history", -1), ("history", 1), ("chunks", 2), ("name", None)]
    for field, value in wrong:
        params = make_context(capi)
        setattr(params.keep[0], field, value)      # the sink, which is pinned
        assert "segments[0]" in capi.refuses(invalid, "sc_context_create", params, ctypes.byref(handle))
    capi.refuses(invalid, "sc_context_create", None, ctypes.byref(handle))
    capi.refuses(invalid, "sc_context_create", make_context(capi), None)
    assert handle.value == 77


def test_structs_of_another_version_are_told_apart(capi):
    size = ctypes.sizeof(capi.sc_context_params)
    params = make_context(capi)
    for wrong in (0, 4, size - 1):
        params.struct_size = wrong
        capi.refuses(capi.SC_E_ABI_MISMATCH, "sc_context_plan", params, ctypes.byref(ctypes.c_uint64()))

    class Later(ctypes.Structure):
        _fields_ = [("now", capi.sc_context_params), ("new", ctypes.c_int64)]

    later = Later(new=5)
    capi.sc_context_params_init(ctypes.byref(later), ctypes.sizeof(later))
    assert later.now.struct_size == ctypes.sizeof(later) and later.new == 0
    for field in ("layers", "heads", "head_dim", "segment_count", "segments"):
        setattr(later.now, field, getattr(params, field))
    wanted, got = ctypes.c_uint64(), ctypes.c_uint64()
    params.struct_size = size
    capi.call("sc_context_plan", params, ctypes.byref(wanted))
    capi.call("sc_context_plan", later, ctypes.byref(got))
    assert wanted.value == got.value > 0
    later.new = 1
    capi.refuses(capi.SC_E_ABI_MISMATCH, "sc_context_plan", later, ctypes.byref(got))


# ---------------------------------------------------------------- memory
def test_memory_is_what_was_planned_and_never_above_the_limit(capi, rng):
    planned, held = ctypes.c_uint64(), ctypes.c_uint64()
    capi.call("sc_context_plan", make_context(capi), ctypes.byref(planned))
    handle, snapshot = ctypes.c_void_p(), ctypes.c_void_p()
    limited = make_context(capi, memory_limit=planned.value - 1)
    message = capi.refuses(capi.SC_E_HOST_MEMORY, "sc_context_create", limited, ctypes.byref(handle))
    assert str(planned.value) in message and not handle.value

    capi.call("sc_context_create", make_context(capi, memory_limit=planned.value), ctypes.byref(handle))
    for count in (3, 4, 5):   # a steady stream
        put(capi, handle, 1, some_tokens(capi, rng, count))
        capi.call("sc_context_bytes", handle, ctypes.byref(held))
        assert held.value == planned.value
    put(capi, handle, 0, some_tokens(capi, rng, 5))
    capi.call("sc_context_snapshot", handle, ctypes.byref(snapshot))   # keeps all chunks: the next must be a new one
    tokens = some_tokens(capi, rng, 2)
    put(capi, handle, 1, tokens)                                       # takes the block that was free
    before = facts(capi, handle)
    out = np.zeros((2, HEADS, DIM), np.float32)
    for wrong in (
        lambda: capi.refuses(capi.SC_E_HOST_MEMORY, "sc_context_append", handle, 0, 1, tokens),
        lambda: capi.refuses(capi.SC_E_HOST_MEMORY, "sc_context_attend", handle, 0, tokens, None, 0, 1, out),
    ):
        assert str(planned.value) in wrong()
        assert facts(capi, handle) == before
    capi.sc_snapshot_destroy(snapshot)
    put(capi, handle, 1, tokens)
    capi.sc_context_destroy(handle)


def test_a_plan_beyond_any_machine_is_refused(capi):
    handle = ctypes.c_void_p()
    for layers, capacity, chunks in ((4096, 1 << 24, 1), (2048, 1 << 22, 1), (4096, 1 << 24, 4096)):
        params = make_context(capi, chunks=chunks)
        params.layers, params.heads, params.head_dim = layers, 4096, 128
        params.keep[0].capacity = params.keep[1].capacity = capacity
        capi.refuses(capi.SC_E_HOST_MEMORY, "sc_context_create", params, ctypes.byref(handle))
        assert not handle.value


# ---------------------------------------------------------------- messages, threads
def test_messages_belong_to_their_thread_and_fit_any_buffer(capi):
    said = capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_context_trim", None)
    other = []
    thread = threading.Thread(target=lambda: other.append(capi.sc_last_error_message(None, 0)))
    thread.start()
    thread.join()
    assert other == [0] and capi.message() == said
    for capacity in (0, 1, 2, 10, len(said), len(said) + 1, len(said) + 50):
        buffer = ctypes.create_string_buffer(b"\xff" * (len(said) + 60), len(said) + 60)
        assert capi.sc_last_error_message(buffer, capacity) == len(said)
        kept = said.encode()[: max(0, capacity - 1)]
        assert buffer.raw == (kept + b"\0" if capacity else b"").ljust(len(buffer), b"\xff")


def test_status_names(capi):
    statuses = [name for name in capi.header.constants if name.startswith("SC_E_")]
    assert len(statuses) == 6
    for name in ("SC_OK", *statuses):
        assert capi.sc_status_name(getattr(capi, name)).decode() == name
    assert capi.sc_status_name(12345) == b"unknown"


def test_threads_and_instruction_sets(capi):
    before, isa = capi.sc_threads(), capi.sc_isa()
    names = []
    while (name := capi.sc_available_isa(len(names))) is not None:
        names.append(name)
    assert isa in names and names[0] == b"generic" and capi.sc_available_isa(-1) is None
    for threads in (0, -1, 1025):
        capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_set_threads", threads)
    assert b", ".join(names).decode() in capi.refuses(capi.SC_E_UNSUPPORTED, "sc_set_isa", b"sse9")
    capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_set_isa", None)
    assert capi.sc_threads() == before and capi.sc_isa() == isa
    try:
        capi.call("sc_set_threads", 3)
        capi.call("sc_set_isa", b"generic")
        assert capi.sc_threads() == 3 and capi.sc_isa() == b"generic"
    finally:
        capi.call("sc_set_threads", before)
        capi.call("sc_set_isa", isa)


def test_nothing_is_printed_and_the_process_goes_on(capi, tmp_path):
    """Where an error is reported, it is by status alone."""
    source = tmp_path / "quiet.c"
    source.write_text(
        "#include <streamchar/streamchar.h>\n"
        "int main(void) { sc_context_destroy(NULL); return sc_context_trim(NULL) == SC_E_INVALID_ARGUMENT ? 0 : 1; }\n"
    )
    binary = tmp_path / "quiet"
    folder = capi.path.parent
    run(program("cc", "gcc", "clang"), source, f"-I{capi.prefix / 'include'}", f"-L{folder}", "-lstreamchar",
        f"-Wl,-rpath,{folder}", "-o", binary)
    done = subprocess.run([str(binary)], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
