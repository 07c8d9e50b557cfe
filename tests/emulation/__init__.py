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
_SHARED = re.compile(r"(?:extern )?__shared__ (?:__align__\(\d+\) )?((?:unsigned )?\w+) (\w+)\[\w*\];")


def compiler() -> str | None:
    return shutil.which("g++")


def _plain(source: str) -> str:
    """CUDA C++ without what is no C++."""
    source = _LAUNCH.sub(r"emulated::launch(\1, \2, \3)", source)
    return _SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(emulated::machine().shared);", source)


def build(folder: Path) -> ctypes.CDLL:
    sources = [HERE / "interface.cc", HERE / "races.cc"]
    for name in KERNELS:
        sources.append(folder / f"{name}.cc")
        sources[-1].write_text(_plain((CSRC / "kernels" / f"{name}.cu").read_text()))

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        # Loads and stores of kernels call functions in races.cc, which stands in for ThreadSanitizer's run-time library.
        watch = ["-O1", "-fsanitize=thread", "-fno-threadsafe-statics"] if source.stem in KERNELS else ["-O3"]
        subprocess.run(
            [compiler(), "-std=c++20", *watch, "-fPIC", "-w", f"-I{HERE}", f"-I{CSRC}", "-c", str(source), "-o",
             str(target)], check=True,
        )
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "emulated.so"
    subprocess.run([compiler(), "-shared", "-o", str(library), *map(str, objects)], check=True)
    emulated = ctypes.CDLL(str(library))
    emulated.emulated_fault.restype = ctypes.c_char_p
    return emulated
