"""Snapshots as bytes and files: sessions go on as the original would have, and bad files are refused."""
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from streamchar_rt import ConfigError, OutputError, Session, Snapshot, SnapshotError
from streamchar_rt.object_graph import ObjectGraph, fields_of
from streamchar_rt.snapshot_format import MAGIC, pack, unpack
from tests.schedules import content, finish, perform, random_schedule
from tests.stand_in import make_engine

SCHEDULES = int(os.environ.get("STREAMCHAR_SCHEDULES", 40))


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def saved(engine):
    """A session in the middle of a turn, as bytes."""
    with engine.session("dot", seed=7) as session:
        session.push_text("Hello there, my friend. [happy] One two fi")
        session.step()
        yield session.snapshot().to_bytes()


def test_a_restored_session_goes_on_as_the_original(engine, tmp_path, rng):
    with make_engine(tmp_path) as second:
        for _ in range(SCHEDULES):
            before, after = random_schedule(rng, int(rng.integers(1, 20))), random_schedule(rng, 8)
            steps, markup = int(rng.integers(1, 5)), str(rng.choice(["tags", "none"]))
            config = dict(seed=int(rng.integers(1 << 40)), steps=steps, markup=markup)
            with engine.session("dot", **config) as session:
                perform(session, before)
                snapshot = session.snapshot()
                data = snapshot.to_bytes()
                truth = content(finish(session, after))
                assert snapshot.to_bytes() == data  # what went on did not change it
                loaded = Snapshot.from_bytes(data)
                assert loaded.to_bytes() == data and loaded.nbytes == len(data)
                assert loaded.config == session.config and loaded.character == "dot"
                with engine.session("dot", steps=steps, markup=markup) as other:
                    finish(other, random_schedule(rng, 2))
                    other.restore(loaded)
                    assert content(finish(other, after))[0][:4] == truth[0][:4]
            for source in (loaded, snapshot):  # any number of times, and in another engine
                with second.session("dot", loaded.config) as fresh:
                    fresh.restore(source)
                    assert content(finish(fresh, after)) == truth, (before, after)


def test_a_file_goes_to_another_process(engine, tmp_path):
    with engine.session("dot", seed=7) as session:
        session.push_text("Hello there, my fr")
        session.listen()
        session.step()
        session.snapshot().save(tmp_path / "here.snapshot")
        truth = content(finish(session, [("push_text", "iend")]))
    code = (
        "import sys, hashlib; from pathlib import Path; from tests.stand_in import make_engine\n"
        "from tests.schedules import content, finish; from streamchar_rt import Snapshot\n"
        "snapshot = Snapshot.load(sys.argv[1] + '/here.snapshot')\n"
        "session = make_engine(Path(sys.argv[1])).session(snapshot.character, snapshot.config)\n"
        "session.restore(snapshot)\n"
        "print(hashlib.sha256(repr(content(finish(session, [('push_text', 'iend')]))).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    import hashlib

    assert done.stdout.strip() == hashlib.sha256(repr(truth).encode()).hexdigest()


def test_a_pending_flush_survives_copies(engine):
    with engine.session("dot", seed=3) as session:
        session.push_text("one tw")
        session.flush()
        with session.fork() as child, engine.session("dot", seed=3) as fresh:
            fresh.restore(Snapshot.from_bytes(session.snapshot().to_bytes()))
            runs = [content(perform(one, [("step", 3)])) for one in (session, child, fresh)]
            assert runs[0] == runs[1] == runs[2]
            assert [word[0] for chunk in runs[0] for word in chunk[5]] == ["one", "tw"]


def test_text_of_any_kind_survives(engine):
    text = "\ud800 é 日本 \x00 [happy] \u202e five "
    with engine.session("dot") as session:
        session.push_text(text)
        session.step()
        session.push_text(text)
        pending = session.pending_text
        restored = Snapshot.from_bytes(session.snapshot().to_bytes())
        with engine.session("dot") as other:
            other.restore(restored)
            assert other.pending_text == pending and text in pending


def test_every_bit_is_guarded(engine, saved, rng):
    with engine.session("dot") as session:
        places = [*range(0, 40), *map(int, rng.integers(0, len(saved), 200)), len(saved) - 1]
        for place in places:
            broken = bytearray(saved)
            broken[place] ^= 1 << int(rng.integers(8))
            with pytest.raises(SnapshotError) as caught:
                session.restore(Snapshot.from_bytes(bytes(broken)))
            assert caught.value.hint
        for length in (0, 1, 7, 8, 31, 32, 100, len(saved) - 1):
            with pytest.raises(SnapshotError):
                Snapshot.from_bytes(saved[:length])
        with pytest.raises(SnapshotError, match="bytes instead of"):
            Snapshot.from_bytes(saved + b"\0")
        for data in (bytes(1000), rng.bytes(1000), MAGIC + rng.bytes(1000)):
            with pytest.raises(SnapshotError):
                Snapshot.from_bytes(data)
        session.say("hello")
        assert [word.text for chunk in session.turn() for word in chunk.words] == ["hello"]  # unharmed


def forged(saved, change):
    """The same file with another header and a right checksum."""
    header, arrays = unpack(saved)
    change(header)
    return pack(header, arrays)


def test_a_well_made_file_that_makes_no_sense_is_refused(engine, saved, rng):
    def drop(key):
        return lambda header: header.pop(key)

    def random_damage(header):
        table = header["graph"]["objects"]
        entry = table[int(rng.integers(len(table)))]
        entry[0] = str(rng.choice(["Popen", "_Turn", "Mark"]))
        entry[1] = entry[1][:-1] if rng.random() < 0.5 else [["o", 10**6]]

    with engine.session("dot") as session:
        for change in (drop("config"), drop("identity"), drop("mode"), drop("graph"), drop("layout")):
            with pytest.raises((SnapshotError)):
                session.restore(Snapshot.from_bytes(forged(saved, change)))
        refused = 0
        for _ in range(50):
            try:
                session.restore(Snapshot.from_bytes(forged(saved, random_damage)))
            except SnapshotError:
                refused += 1
        assert refused > 10


def test_other_versions_models_and_characters_are_named(engine, saved, tmp_path):
    newer = saved[:8] + struct.pack("<I", 5) + saved[12:]
    with pytest.raises(SnapshotError, match="format version 5") as caught:
        Snapshot.from_bytes(newer)
    assert "update" in caught.value.hint
    with engine.session("dot") as session:
        other_fields = forged(saved, lambda header: header.update(layout=["other"], package="9.9"))
        with pytest.raises(SnapshotError, match=r"9\.9"):
            session.restore(Snapshot.from_bytes(other_fields))
        other_options = forged(saved, lambda header: header["config"].update(unheard_of=1))
        with pytest.raises(SnapshotError, match="options"):
            Snapshot.from_bytes(other_options)
        with pytest.raises(ConfigError):
            session.restore(b"something")
    with engine.session("square") as session, pytest.raises(SnapshotError, match="'dot'") as caught:
        session.restore(Snapshot.from_bytes(saved))
    assert "character" in caught.value.hint
    with engine.session(engine.character("dot", voice="low")) as session, pytest.raises(SnapshotError, match="voice"):
        session.restore(Snapshot.from_bytes(saved))
    (tmp_path / "second").mkdir()
    with make_engine(tmp_path / "second") as foreign, foreign.session("dot") as session:  # other random weights
        with pytest.raises(SnapshotError, match="model") as caught:
            session.restore(Snapshot.from_bytes(saved))
        assert "bundle" in caught.value.hint


def test_files_that_cannot_be_read_or_written(engine, tmp_path):
    with pytest.raises(SnapshotError, match="nothing.snapshot"):
        Snapshot.load(tmp_path / "nothing.snapshot")
    with pytest.raises(ConfigError):
        Snapshot.from_bytes("text")
    with engine.session("dot") as session:
        snapshot = session.snapshot()
        with pytest.raises(OutputError, match="cannot be written"):
            snapshot.save(tmp_path / "no folder" / "a")
        (tmp_path / "a").write_bytes(b"old")
        snapshot.save(tmp_path / "a")
        assert Snapshot.load(tmp_path / "a").to_bytes() == snapshot.to_bytes()
        assert [path.name for path in tmp_path.glob("a*")] == ["a"]


def test_the_file_is_as_documented(saved):
    """Read again by the words of the documentation alone."""
    import hashlib

    magic, version, zero, header_bytes, payload_bytes = struct.unpack("<8sIIQQ", saved[:32])
    assert (magic, version, zero) == (b"\x89SCS\r\n\x1a\n", 4, 0)
    header = json.loads(saved[32 : 32 + header_bytes].decode("ascii"))
    payload = saved[32 + header_bytes : -32]
    assert len(payload) == payload_bytes and hashlib.sha256(saved[:-32]).digest() == saved[-32:]
    dtype, shape, offset, size = header["arrays"][0]
    assert offset % 64 == 0
    assert np.frombuffer(payload[offset : offset + size], dtype).reshape(shape).shape == (64, 64, 4)  # the last picture
    assert header["identity"]["character"] == "dot" and header["config"]["seed"] == 7


def test_arrays_of_every_kind_come_back(rng):
    arrays = [
        rng.integers(0, 100, shape).astype(dtype)
        for dtype in ("?", "u1", "i2", "i4", "i8", "f4", "f8", ">f4")
        for shape in [(), (0,), (3,), (2, 0, 3), (3, 5)]
    ]
    arrays.append(np.arange(24.0).reshape(4, 6).T)
    header, found = unpack(pack({"a": "\ud800"}, arrays))
    assert header == {"a": "\ud800"}
    for a, b in zip(arrays, found, strict=True):
        assert a.shape == b.shape and (a == b).all() and not b.flags.writeable
    with pytest.raises(TypeError):
        pack({}, [np.zeros(1, np.complex64)])


def test_graphs_keep_sharing_and_refuse_strangers():
    from streamchar_rt.timeline import SpokenUnit, WrittenWord

    layout = {kind: fields_of(kind) for kind in (SpokenUnit, WrittenWord)}
    outside = object()
    graph = ObjectGraph(layout, {"outside": outside})
    word = WrittenWord("five", 1, 5)
    value = {"a": [SpokenUnit(3, 1, word), word], 2: (float("nan"), float("-inf"), 0.1), "t": torch.arange(3)}
    value["o"] = outside
    value["self"] = value
    json_part, arrays = graph.write(value)
    found = graph.read(json.loads(json.dumps(json_part)), arrays)
    assert found["a"][0].word is found["a"][1] and found["a"][1] == word and found["a"][1] is not word
    assert found["self"] is found and found["o"] is outside
    assert np.isnan(found[2][0]) and found[2][1:] == (float("-inf"), 0.1)
    assert torch.equal(found["t"], value["t"])
    for stranger in (object(), Session, {1}, b"bytes", np.zeros(2, "M8[s]")):
        with pytest.raises(TypeError):
            pack({}, graph.write([stranger])[1])
