"""The ablations' rows, and the run time without its pointer."""
from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("skia", reason="the studio draws with skia-python")
pytest.importorskip("pocketsphinx")
from streamchar_rt.model_state import _Units  # noqa: E402
from streamchar_rt.bundle import open_bundle  # noqa: E402
from streamchar_rt.denoiser.context import SINK  # noqa: E402
from streamchar_rt.denoiser.sampler import Sampler  # noqa: E402
from streamchar_rt.orchestrator.condition import LONGEST, ConditionEncoder  # noqa: E402
from streamchar_rt.orchestrator.packed import PlainOrchestrator  # noqa: E402
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS, PAD  # noqa: E402
from tests.small_training import small_streams  # noqa: E402
from tests.test_reports import check_self_contained, curve, distances  # noqa: E402
from tools.evaluate import ablations, baselines  # noqa: E402
from tools.evaluate.take import AblatedEngine, variant  # noqa: E402
from tools.evaluate.whole_text import WholeTextPlan  # noqa: E402
from tools.train.batches import StreamSampler  # noqa: E402
from tools.train.whole_text import WholeTextSampler, whole_config  # noqa: E402


# ------------------------------------------------------------------ rows
def checkpoint(folder, tensors: dict[str, torch.Tensor]):
    folder.mkdir()
    torch.save({"ema": tensors}, folder / "checkpoint.pt")
    return folder


def test_rows_without_checkpoint_are_absent(tmp_path):
    here = checkpoint(tmp_path / "here", {})
    folders = {flag: None for flag in ablations.FLAGS} | {"teacher": here, "stage_one": tmp_path / "nowhere"}
    why = {row.name: ablations.missing(row, folders) for row in ablations.ROWS}
    assert why["teacher, 50 steps"] is None and why["the bundle as it is"] is None
    assert "nowhere" in why["stage I only, 4 steps"] and "--stage-two" in why["distilled, without sink"]
    folders["stage_two"] = here
    whole = next(row for row in ablations.ROWS if row.pointer == "whole")
    assert "--whole-text" in ablations.missing(whole, folders)
    assert len({row.name for row in ablations.ROWS}) == len(ablations.ROWS)


def test_a_row_brings_its_own_weights(tmp_path, seeded):
    encoder = ConditionEncoder()
    tensors = {f"condition.{k}": v for k, v in encoder.state_dict().items()}
    folders = {"stage_one": checkpoint(tmp_path / "a", {**tensors, "other.x": torch.ones(2)})}
    row = ablations.Row("x", "stage_one")
    assert set(ablations.tensors_of(row, folders)) == set(tensors)
    with ablations.engine_of(row, folders, "mini", 1) as engine:
        assert engine.models.sampler == Sampler()                     # a student's steps are Euler's
        rows, voice = torch.randint(0, 3, (1, 48, 4)), torch.tensor([1])
        with torch.no_grad():
            wanted = PlainOrchestrator(None, encoder).conditions(rows, voice)
        for own, want in zip(engine.models.orchestration.conditions(rows, voice), wanted):
            assert torch.allclose(own, want, atol=1e-4)
    first = ablations.mark_of(row, folders)
    tensors["condition.embed.bias"] = tensors["condition.embed.bias"] + 1e-3
    folders["stage_one"] = folders["teacher"] = checkpoint(tmp_path / "b", tensors)
    assert ablations.mark_of(row, folders) != first
    with ablations.engine_of(ablations.Row("x", "teacher"), folders, "mini", 1) as engine:
        assert engine.models.sampler == Sampler(**open_bundle("mini").manifest["model"]["sampler"])


def test_the_pages_show_what_is_absent(tmp_path, rng):
    record = lambda errors: {
        "row": "teacher, 4 steps", "kind": "product", "errors": errors, "words": 20, "seconds": 8.0, "frames": 200,
        "phones": {"errors": 2 * errors, "phones": 60}, "alignment": curve(0.8), "energy": curve(0.5),
        "sync": distances(0.8), "track_frames": 150, "similarity": 0.9, "drift": 0.02, "drift_rise": 0.001,
        "movement": 1.0, "real_time_factors": [0.4], "compute": 4.0}
    records = {"a": record(1), "b": record(3)}
    summary = ablations.summarize(records, [row.name for row in ablations.ROWS])
    assert summary["teacher, 4 steps"]["wer"] == pytest.approx(0.1)
    assert summary["teacher, 4 steps"]["per"] == pytest.approx(8 / 120)
    assert [name for name, row in summary.items() if row is not None] == ["teacher, 4 steps"]
    facts = {"clips": 2, "seconds": 10, "model": "m", "machine": "x", "command": "c", "show": 0, "sentences": 2,
             "voice": "rms", "steps": 4}
    html = ablations.page_of(summary, {"teacher, 50 steps": "no --teacher"}, tmp_path, facts).html()
    check_self_contained(html)
    assert "absent: no --teacher" in html and html.count("absent: not measured") == len(ablations.ROWS) - 2
    json.dumps(summary)
    rows = baselines.summarize(records, (*baselines.KINDS, baselines.TRUTH))
    assert rows["product"]["real_time_factor"] == pytest.approx(0.5) and rows["cascade"] is rows["truth"] is None
    made = {"product": {"minutes": 3.0, "iterations": 9, "parameters": 7}}
    html = baselines.page_of(rows, made, tmp_path, facts).html()
    check_self_contained(html)
    assert html.count("absent: no checkpoint") == 4


# ------------------------------------------------------------------ the whole text in the window
def test_the_whole_turn_is_in_the_window(rng):
    """Labels point at the units that are spoken, and the window begins with the turn in every chunk."""
    streams = small_streams(rng)
    sampler, config = WholeTextSampler(streams, held_out=4, seed=int(rng.integers(2 ** 31))), whole_config()
    rows = sampler.rows(6)
    batch = sampler.orchestrator(rows, config)
    plain = StreamSampler.orchestrator(sampler, rows, whole_config().__class__())
    for i, row in enumerate(rows):
        at, first = int(row[0]), int(row[2]) + 1
        assert batch.window.unit[i, :40].tolist() == streams.unit[first: first + 40].tolist()
        assert (batch.window.unit[i, 40:] == PAD).all()
        place = streams.place[at: at + config.slots + config.lookahead]
        assert batch.place[i].tolist() == (place - first).tolist()
        assert batch.position[i].tolist() == pytest.approx((place - first).tolist())
    assert torch.equal(batch.mel, plain.mel) and torch.equal(batch.history, plain.history)


def test_without_a_pointer_the_model_says_where_it_is(rng):
    config = SimpleNamespace(window_before=0, window=24, slots=32)
    models = SimpleNamespace(orchestrator=SimpleNamespace(config=config),
                             orchestration=SimpleNamespace(conditions=lambda rows, voices: None))
    units = _Units()
    turn = [(int(k), 0, 0) for k in rng.integers(FIRST_PHONE, NUM_UNITS, 12)] + [(END, 0, 0)]
    units.rows += turn
    state = SimpleNamespace(models=models, units=units, pointer=0, elapsed=LONGEST, holds={}, past=np.zeros((8, 4), np.int64))

    def chunk(begin: int, end: int) -> WholeTextPlan:
        """Told that the chunk says places ``begin`` to ``end``; then the stream moves on as the run time does."""
        plan = WholeTextPlan(state, SimpleNamespace(voice=0))
        logits = torch.full((40, 24), -50.0)
        logits[np.arange(40), np.linspace(begin, end, 40).round().astype(int)] = 50.0
        plan.follow(logits)
        state.pointer, state.elapsed = plan.first + int(plan.path[31]), int(plan.elapsed[31])
        units.forget_before(state.pointer)
        return plan

    for begin, end in ((0, 4), (7, 11), (2, 3), (12, 12)):
        before = state.pointer
        plan = chunk(begin, end)
        assert plan.first == 1 and [tuple(r) for r in plan.rows[:13].tolist()] == turn and plan.rows[13, 0] == PAD
        # A model that has lost its place skips words, but it cannot unsay them.
        assert plan.path[0] == max(begin, before - 1) and (np.diff(plan.path) >= 0).all()
    assert state.pointer == 13  # the END
    fresh = [(int(k), 0, 0) for k in rng.integers(FIRST_PHONE, NUM_UNITS, 5)]
    units.rows += fresh
    plan = chunk(0, 2)
    assert plan.first == 14 and [tuple(r) for r in plan.rows[:5].tolist()] == fresh and plan.path[0] == 0


# ------------------------------------------------------------------ the sinks
class Watched(AblatedEngine):
    def generate(self, state, *rest):
        self.cache = state.cache
        return super().generate(state, *rest)


def test_the_first_chunks_are_kept_as_sinks():
    """With one, the product's bytes; with none or several, another stream from the chunk on that sees the difference."""
    def say() -> list[bytes]:
        with engine.session(engine.characters()[0], seed=5) as session:
            session.say("One two three four five six seven eight.")
            return [session.step().audio.tobytes() for _ in range(5)]

    with Watched.load("mini", threads=1) as engine:
        product, tokens = say(), engine.models.denoiser.layout.chunk_tokens
        for sinks, kept, same in ((1, [tokens], 5), (0, [0], 1), (3, [tokens] * 3, 2), (1, [tokens, 0, 0], 5)):
            with variant(engine, sinks, "model"):
                sound = say()
            assert [engine.cache.rows(name) for name in engine.cache.spec.names if name.startswith(SINK)] == kept
            assert sound[:same] == product[:same] and all(a != b for a, b in zip(sound[same:], product[same:]))
