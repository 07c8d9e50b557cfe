"""The GPU command, as far as it goes without a GPU; and the machine code of the kernels, where it was built."""
from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from streamchar_rt.ops._native import native
from streamchar_rt.pipeline import RawChunk
from tools.gpu import __main__ as command
from tools.gpu import chain, chain_parts, kernel_times, report, sass
from tools.gpu.parts import PARTS, ROOT, Part, chosen
from tools.gpu.problems import AttentionProblem, LinearProblem


def test_the_plan_fits_ten_minutes_and_names_every_part(capsys):
    assert command.main(["--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert sum(part.seconds for part in PARTS) <= 600
    for part in PARTS:
        assert part.name in printed and f"{part.seconds} s" in printed


def test_parts_are_chosen_in_running_order():
    assert [p.name for p in chosen("bench, build")] == ["build", "bench"]
    assert chosen(None) == list(PARTS)
    for bad in ("nothing", "build,nothing", ""):
        with pytest.raises(ValueError):
            chosen(bad)
    with pytest.raises(SystemExit):
        command.main(["--parts", "nothing", "--dry-run"])


def run_parts(monkeypatch, tmp_path, scripts, gpu=True, budget=60):
    """Runs stand-ins: name -> (script, limit in seconds)."""
    parts = [Part(name, "", limit, lambda out, build, s=script: [sys.executable, "-c", s]) for name, (script, limit)
             in scripts.items()]
    monkeypatch.setattr(command, "chosen", lambda names: parts)
    monkeypatch.setattr(report, "gpu_present", lambda: gpu)
    code = command.main(["--out", str(tmp_path), "--build", str(tmp_path / "build"), "--budget", str(budget)])
    return code, {row["part"]: row["state"] for row in report.rows(tmp_path) if row["kind"] == "part"}


def test_a_part_that_fails_or_hangs_is_recorded_and_the_next_one_runs(monkeypatch, tmp_path):
    code, states = run_parts(monkeypatch, tmp_path, {
        "bad": ("print('why'); raise SystemExit(3)", 60), "slow": ("import time; time.sleep(60)", 6), "good": ("", 60),
    })
    assert code == 1 and states == {"bad": "failed", "slow": "timeout", "good": "ok"}
    assert "why" in (tmp_path / "bad.log").read_text()


def test_without_a_gpu_or_time_parts_are_skipped_and_say_so(monkeypatch, tmp_path):
    code, states = run_parts(monkeypatch, tmp_path / "a", {"bench": ("", 60)}, gpu=False)
    assert code == 1 and states == {"bench": "skipped"}
    code, states = run_parts(monkeypatch, tmp_path / "b", {"bench": ("", 60)}, budget=2)
    assert code == 1 and states == {"bench": "skipped"}


def test_the_table_compares_with_native_and_the_ceilings(tmp_path):
    for row in (
        {"kind": "ceiling", "name": "matmul TFLOP/s", "value": 800.0},
        {"kind": "ceiling", "name": "copy GB/s", "value": 4000.0},
        {"kind": "time", "op": "segment_attention", "case": "c", "way": "native", "us": 100.0, "tflops": 600.0,
         "gbps": 90.0},
        {"kind": "time", "op": "segment_attention", "case": "c", "way": "sdpa cudnn", "us": 125.0, "tflops": 480.0},
        {"kind": "time", "op": "gated_residual", "case": "c", "way": "torch", "us": 8.0, "gbps": 1000.0},
    ):
        report.add(tmp_path, row)
    elsewhere = {**report.rows(tmp_path)[-1], "op": "of another commit", "commit": "0000000"}
    kept = (tmp_path / report.ROWS).read_text()
    (tmp_path / report.ROWS).write_text(json.dumps(elsewhere) + "\n" + kept)
    assert report.write_table(tmp_path)
    assert "another commit" not in (tmp_path / report.TABLE).read_text()
    table = (tmp_path / report.TABLE).read_text()
    assert "| segment_attention | c | native | 100.0 | 600 | 90 | 75% |  |" in table
    assert "| segment_attention | c | sdpa cudnn | 125.0 | 480 | 0 | 60% | 1.25 |" in table
    assert "| gated_residual | c | torch | 8.0 | 0 | 1000 | 25% |  |" in table
    rows = [json.loads(line) for line in (tmp_path / report.ROWS).read_text().splitlines()]
    assert all({"device", "driver", "torch", "commit", "time"} <= set(row) for row in rows)
    assert not report.write_table(tmp_path / "empty")


LISTING = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]
	code for sm_90a
		Function : {name}
	.headerflags	@"EF_CUDA_ACCELERATORS EF_CUDA_SM90"
{body}
"""


def listing(head_dim, narrow, logits=None, copies=None, extra=()):
    kind = "F32" if narrow else "F32.BF16"
    copies = (0 if narrow else 2 * head_dim // 64) if copies is None else copies
    opcodes = [f"HGMMA.64x128x16.{kind}"] * (2 * head_dim // 16 if logits is None else logits)
    opcodes += [f"HGMMA.64x{head_dim}x16.{kind}"] * 16
    opcodes += ["UTMALDG.3D"] * copies + ["USETMAXREG.DEALLOC.CTAPOOL", "USETMAXREG.TRY_ALLOC.CTAPOOL"]
    opcodes += ["F2FP.F16.E4M3.UNPACK_B"] * narrow + ["FENCE.VIEW.ASYNC.S"] + ["ATOMG.E.ADD.STRONG.GPU"] * 2
    opcodes += ["STG.E.128.STRONG.GPU", "LDG.E.128.STRONG.GPU"] + ["WARPGROUP.DEPBAR.LE"] * 3 + list(extra)
    opcodes += [f"HMMA.16816.{kind}"] * 16
    opcodes += ["WARPGROUP.DEPBAR.LE gsb0, 0x1 ;"] + ["MUFU.EX2"] * 128
    body = "\n".join(f"        /*{16 * i:04x}*/      @!P0 {op} R24, gdesc[UR4] ;" for i, op in enumerate(opcodes))
    return LISTING.format(name=f"_Z24segment_attention_kernelILi{head_dim}ELb{int(narrow)}EEv", body=body)


def test_machine_code_checks_find_slow_paths():
    rest = listing(64, False) + listing(64, True) + listing(128, True)
    assert sass.problems(sass.parse(rest + listing(128, False))) == []
    assert sass.parse(rest)[0].architecture == "sm_90a"
    for bad, word in (
        ("", "no segment_attention kernel for head 128, bf16"),
        (listing(128, False, logits=15), "wgmma shapes"),
        (listing(128, False, extra=["HGMMA.64x16x16.F32.BF16"]), "wgmma shapes"),
        (listing(128, False, copies=0), "bulk copies"),
        (listing(128, False, extra=["STL"]), "spill"),
        (listing(128, False, extra=["HMMA.16816.F32.BF16"]), "mma.sync"),
        (listing(128, False, extra=["ATOMG.E.ADD.STRONG.GPU"]), "atomic"),
        (listing(128, False, extra=["WARPGROUP.DEPBAR.LE"] * 9), "serialised"),
        (listing(128, False).replace("LDG.E.128.STRONG.GPU", "LDG.E.128"), "through L2"),
        (listing(128, False).replace("FENCE", "NOP"), "fenced"),
        (listing(128, False).replace("gsb0, 0x1", "gsb0, 0x0"), "exponentials"),
    ):
        assert any(word in problem for problem in sass.problems(sass.parse(rest + bad))), word
    one_byte = listing(128, True).replace("F2FP.F16.E4M3", "F2FP.F16.F32") + listing(128, False)
    assert any("e4m3" in p for p in sass.problems(sass.parse(listing(64, False) + listing(64, True) + one_byte)))


def linear_listing(columns, replace=("", ""), architecture="sm_90a"):
    """A fused_linear kernel, with some of its code replaced."""
    opcodes = [f"HGMMA.64x{columns}x16.F32.BF16"] * 8 + ["UTMALDG.3D", "UTMASTG.3D", "WARPGROUP.DEPBAR.LE"]
    opcodes += ["UTMALDG.3D.MULTICAST"] * (columns > 64)
    opcodes += ["USETMAXREG.DEALLOC.CTAPOOL", "USETMAXREG.TRY_ALLOC.CTAPOOL"]
    if architecture != "sm_90a":
        opcodes = ["HMMA.16816.F32.BF16"] * 8 + ["LDGSTS.E.BYPASS.LTC128B.128"]
    body = "\n".join(f"        /*{16 * i:04x}*/      {op} R24 ;" for i, op in enumerate(opcodes)).replace(*replace)
    name = f"_ZN7cutlass13device_kernelI20MMA_64x{columns}x16_F32BF16BF16_SSE"
    return LISTING.format(name=name, body=body).replace("sm_90a", architecture)


def test_machine_code_checks_of_fused_linear_layers():
    attention = "".join(listing(head_dim, narrow) for head_dim in (64, 128) for narrow in (False, True))
    hopper = [linear_listing(columns) for columns in (64, 128, 256) for _ in range(3)]
    older = [linear_listing(64, architecture="sm_80") for _ in range(6)]
    problems = lambda *linear: sass.problems(sass.parse(attention + "".join(linear)))
    assert problems() == problems(*hopper, *older) == []
    assert len(sass.fused_linear_kernels(sass.parse("".join([attention, *hopper])))) == 9
    assert any("8 fused_linear kernels for sm_90a" in p for p in problems(*hopper[1:]))
    assert any("5 fused_linear kernels for sm_80" in p for p in problems(*hopper, *older[1:]))
    for replace, word in (
        (("64x256", "64x16"), "products are HGMMA.64x256"), (("UTMASTG", "STG"), "bulk stores"),
        (("UTMALDG.3D.MULTICAST", "NOP"), "shared by a cluster"), (("USETMAXREG.DEALLOC", "NOP"), "reallocated"),
        (("UTMALDG.3D ", "STL "), "spill"), (("UTMALDG.3D ", "WARPGROUP.DEPBAR.LE R1 ;\n/*0ff0*/ " * 2), "serialised"),
    ):
        assert any(word in p for p in problems(*hopper[:-1], linear_listing(256, replace), *older)), word
    slow = linear_listing(64, ("HMMA.16816", "HMMA.1688"), "sm_80")
    assert any("products are HMMA.16816" in p for p in problems(*hopper, *older[1:], slow))


@pytest.mark.parametrize("finish", ["none", "gelu_tanh", "gated_residual"])
def test_what_fused_layers_are_compared_with_is_the_same_work(seeded, finish):
    problem = LinearProblem.random(2, 30, 64, 48, finish, device="cpu")
    wanted = problem.truth()
    assert float((problem.chain() - wanted).norm() / wanted.norm()) < 1e-2
    assert problem.flops == 2 * 60 * 64 * 48
    assert problem.nbytes == 2 * (60 * 64 + 64 * 48 + 60 * 48 * (2 if finish == "gated_residual" else 1))


@pytest.mark.skipif(native is None or not native.cuda_architectures, reason="built without CUDA")
@pytest.mark.skipif(sass.find_cuobjdump() is None, reason="no cuobjdump")
def test_the_built_kernels_are_as_designed():
    kernels = sass.kernels_in(Path(native.__file__), sass.find_cuobjdump())
    assert sass.problems(kernels) == []
    if native.cuda_has_sm90a:
        assert any(k.architecture == "sm_90a" for k in kernels)


def test_what_benchmarks_compare_with_is_the_same_work(seeded):
    """The unfused chain and plain attention of the benchmarks, on the CPU."""
    problem = AttentionProblem.random(50, [20, 33, 50], heads=2, head_dim=64, device="cpu")
    heads_first = lambda x: x.transpose(0, 1)[None].float()
    keys, values = torch.cat(problem.turned_keys()), torch.cat(problem.values)
    out = F.scaled_dot_product_attention(*map(heads_first, (problem.ready_queries(), keys, values)))
    wanted, _ = problem.truth()
    assert float((out[0].transpose(0, 1) - wanted).norm() / wanted.norm()) < 1e-2
    assert problem.flops == 4 * 50 * 2 * 64 * 103


def test_the_chain_runs_its_cases_and_says_what_it_cannot(monkeypatch, tmp_path, capsys):
    """On the CPU, at a small scale: the same code but for the GPU's counters."""
    monkeypatch.setattr(chain, "WAYS", {"torch": "reference"})
    chain.run_case(tmp_path, "tiny", torch.device("cpu"), 1, float("inf"))
    chain.main(["--out", str(tmp_path), "--device", "cpu", "--cases", "full-512x512", "--seconds", "0"])
    rows = report.rows(tmp_path)
    plan, first = rows[0], next(row for row in rows if row["kind"] == "chain")
    assert plan["kind"] == "plan" and plan["planned_bytes"] == sum(
        sum(plan[part].values()) for part in ("weights", "session", "shared"))
    assert first["case"] == "tiny" and first["way"] == "torch" and first["chunk_ms"] == 1375
    assert first["real_time_factor"] == pytest.approx(first["wall_ms"] / 1375) and first["chunks"] == 1
    assert set(report.CHAIN_STAGES) < set(first["stages_ms"]) and first["host_syncs"] is None
    (late,) = (row for row in rows if row["kind"] == "absent" and row["case"] == "full-512x512")
    assert late["why"] == "no time left"
    assert report.write_table(tmp_path) and f"| tiny | {first['way']} |" in (tmp_path / report.TABLE).read_text()
    assert "weights: dit" in capsys.readouterr().out
    for bad in (["--cases", "nothing"], ["--chunks", "0"]):
        with pytest.raises(SystemExit):
            chain.main(["--out", str(tmp_path), "--device", "cpu", *bad])


def test_a_case_that_does_not_fit_is_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(chain.allocation, "available_bytes", lambda device: 10**6)
    chain.run_case(tmp_path, "full-704x1280", torch.device("cpu"), 1, float("inf"))
    plan, refusal = report.rows(tmp_path)
    assert refusal["kind"] == "absent" and str(plan["planned_bytes"]) in refusal["why"] and "1000000" in refusal["why"]


def test_agreement_of_equal_and_of_other_chunks(rng):
    make = lambda: RawChunk(rng.normal(size=50).astype(np.float32), rng.integers(0, 256, (2, 4, 4, 4), dtype=np.uint8),
                            rng.integers(0, 9, 6), np.zeros(6, np.int64), 1.0)
    chunks = [make(), make()]
    assert chain.agreement(chunks, chunks) == {"same_units": 1.0, "audio_error": 0.0, "pixel_difference": 0.0}
    quiet = [RawChunk(0 * chunk.audio, chunk.video, chunk.places + 1, chunk.elapsed, 1.0) for chunk in chunks]
    assert chain.agreement(chunks, quiet) == {"same_units": 0.0, "audio_error": 1.0, "pixel_difference": 0.0}


def test_the_parts_of_a_chain_run():
    """What tells most first; names that say all of it; a plain run where one with graphs has failed."""
    names = [part.name for part in chain_parts.chosen(chain.DEFAULT.split(","), gpu=True)]
    assert names == ["agreement", "mini/native", "mini/torch", "engine", "full-512x512/native", "full-512x512/torch",
                     "full-704x1280/native", "full-704x1280/torch", "full-512x512/mixed", "full-512x512/native/tuned"]
    for name in [*names, "mini/torch/plain"]:
        assert chain_parts.parse(name, 1).name == name
    assert [part.name for part in chain_parts.chosen(["tiny"], gpu=False)] == ["tiny/torch"]


def test_a_part_that_dies_leaves_its_reason_and_the_next_one_runs(monkeypatch, tmp_path, capsys):
    scripts = {"mini/native": "import os; print('here'); os.abort()",
               "mini/native/plain": "import time; time.sleep(60)",
               "mini/torch": f"import sys; sys.exit({chain_parts.FAILED})", "mini/torch/plain": "print('made')"}
    monkeypatch.setattr(chain_parts, "command", lambda part, *_: [sys.executable, "-c", scripts[part.name]])
    monkeypatch.setattr(chain_parts, "replace", lambda part, **changes: dataclasses.replace(
        part, **{**changes, "seconds": 1 if scripts.get(part.name, "").startswith("import time") else 20}))
    told = []
    parts = [chain_parts.ChainPart("mini", 20, way) for way in ("native", "torch")]
    tell = lambda part, why: told.append((part.name, why))
    chain_parts.run_all(parts, tmp_path, "cpu", 1, time.monotonic() + 100, tell)
    (aborted, why), (late, reason) = told         # a part that failed in order has said so itself
    assert aborted == "mini/native" and "SIGABRT" in why and "here" in why
    assert late == "mini/native/plain" and "more than 1 s" in reason
    assert (tmp_path / chain_parts.LOG).read_text().count("== mini") == 4 and "made" in capsys.readouterr().out
    chain_parts.run_all(parts, tmp_path, "cpu", 1, time.monotonic(), tell)
    assert told[2:] == [("mini/native", "no time left"), ("mini/torch", "no time left")]


def test_the_longest_kernels_come_first(tmp_path):
    x = torch.randn(300, 300)
    found = kernel_times.kernel_times(lambda: (x @ x).relu(), gpu=False, count=2)
    times = [each["ms"] for each in found["kernels"]]
    assert len(times) == 2 and times == sorted(times, reverse=True) and found["total_ms"] >= sum(times) > 0
    kernel_times.write(tmp_path, "product", found)
    assert "## product" in (text := (tmp_path / kernel_times.TABLE).read_text()) and "aten::mm" in text


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "tools.gpu", "--dry-run", "--parts", "build"], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "tools.gpu.build" in done.stdout


def test_commands_side_by_side_end_on_their_own(capsys):
    """One that fails, one that hangs with a child of its own, one that is well."""
    from tools.gpu.children import TIMEOUT, side_by_side

    python = lambda script: [sys.executable, "-c", script]
    codes = side_by_side({
        "bad": python("print('why'); raise SystemExit(3)"),
        "slow": python("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"),
        "good": python("print('well')"),
    }, seconds=3)
    assert codes == {"bad": 3, "slow": TIMEOUT, "good": 0}
    printed = capsys.readouterr().out
    assert "-- bad: exit 3\nwhy" in printed and "-- good: exit 0\nwell" in printed
