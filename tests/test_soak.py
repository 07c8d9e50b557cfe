"""The soak over the stand-in model, and that it finds what is wrong."""
from __future__ import annotations

import json

import pytest

from streamchar_rt import Engine
from tests import stand_in
from tests.stand_in import make_engine
from tools import soak
from tools.soak import Failure, Soak


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


def test_a_few_minutes_of_everything(tmp_path, monkeypatch, capsys, rng):
    monkeypatch.setattr(Engine, "load", classmethod(lambda cls, model, **options: make_engine(tmp_path, **options)))
    seed = int(rng.integers(1 << 30))
    assert soak.main(["--minutes-of-stream", "8", "--seed", str(seed), "-q"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    assert "failure" not in result, (seed, result)
    assert result["av_difference_samples"] == 0 and result["minutes"] >= 8 and result["words"] > 50
    assert {"push", "step", "interrupt", "snapshot"} <= set(result["calls"])


@pytest.mark.parametrize("fault", ["word", "clock", "sound", "silence"])
def test_faults_are_found(engine, monkeypatch, fault):
    from streamchar_rt.session import Session

    original, count = Session.step, [0]

    def step(self, timeout=None):
        chunk = original(self, timeout)
        if chunk is not None and chunk.words:
            count[0] += 1
            if count[0] == 3:
                if fault == "word":
                    chunk.words = chunk.words[1:]
                elif fault == "clock":
                    chunk.pts += 1
                elif fault == "sound":
                    chunk.audio[7] = float("nan")
                else:
                    return None
        return chunk

    monkeypatch.setattr(Session, "step", step)
    with pytest.raises(Failure):
        Soak(engine, seed=5, minutes=4).run(progress=False)


def test_growth_fails(engine, monkeypatch):
    sizes = iter(range(10**9, 2 * 10**9, 10**5))
    monkeypatch.setattr(soak.machine, "resident_bytes", lambda: next(sizes))
    result = Soak(engine, seed=6, minutes=4).run(progress=False)
    assert result["memory_growth"] > 0.01 and not result["passed"]
    assert stand_in.HALF_FRAMES * 320 == engine.info.chunk_samples
