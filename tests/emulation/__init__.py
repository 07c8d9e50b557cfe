"""Builds the sources of the GPU kernels for machine.h, and calls them."""
from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = ("segment_attention_sm80", "segment_attention_sm90", "kv_append_sm80")

_LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)\s*<<<(.*?),\s*\w+>>>\((\w+)\)", re.DOTALL)
_EXTERN_SHARED = re.compile(r"extern __shared__ __align__\(\d+\) unsigned char (\w+)\[\];")


def compiler() -> str | None:
    return shutil.which("g++")


def _plain(source: str) -> str:
    """CUDA C++ without what is no C++."""
    source = _LAUNCH.sub(r"emulated::launch(\1, \2, \3)", source)
    return _EXTERN_SHARED.sub(r"unsigned char* const \1 = emulated::machine().shared;", source)


def build(folder: Path) -> ctypes.CDLL:
    sources = [HERE / "interface.cc"]
    for name in KERNELS:
        sources.append(folder / f"{name}.cc")
        sources[-1].write_text(_plain((CSRC / "kernels" / f"{name}.cu").read_text()))

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        subprocess.run(
            [compiler(), "-std=c++20", "-O1", "-fPIC", "-w", f"-I{HERE}", f"-I{CSRC}", "-c", str(source), "-o",
             str(target)], check=True,
        )
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "emulated.so"
    subprocess.run([compiler(), "-shared", "-o", str(library), *map(str, objects)], check=True)
    return ctypes.CDLL(str(library))
