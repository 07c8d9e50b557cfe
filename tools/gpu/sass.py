"""What machine code the compiler made: guards against silent slow paths."""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Kernel:
    name: str                                   # mangled
    architecture: str                           # such as sm_90a
    instructions: Counter = field(default_factory=Counter)   # by opcode with its modifiers
    overlapped: Counter = field(default_factory=Counter)      # of those, what runs while one group of wgmma is open

    def count(self, prefix: str) -> int:
        """Instructions whose opcode is ``prefix``, with any modifiers beyond it."""
        return sum(n for opcode, n in self.instructions.items() if opcode == prefix or opcode.startswith(prefix + "."))


_FUNCTION = re.compile(r"^\s*Function\s*:\s*(\S+)")
_ARCHITECTURE = re.compile(r"^\s*arch\s*=\s*(sm_\w+)|EF_CUDA_(SM\d+\w*)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)")
_ONE_OPEN = re.compile(r"gsb0,\s*0x1\s*;")


def parse(dump: str) -> list[Kernel]:
    """Kernels of a ``cuobjdump --dump-sass`` listing."""
    kernels: list[Kernel] = []
    architecture, waits = "", False
    for line in dump.splitlines():
        if found := _ARCHITECTURE.match(line):
            architecture = found[1] or architecture
        elif found := _FUNCTION.match(line):
            kernels.append(Kernel(found[1], architecture))
            waits = False
        elif kernels and (found := _INSTRUCTION.match(line)):
            kernels[-1].instructions[found[1]] += 1
            if found[1].startswith("WARPGROUP.DEPBAR"):
                waits = bool(_ONE_OPEN.search(line))
            elif waits:
                kernels[-1].overlapped[found[1]] += 1
    return kernels


def find_cuobjdump() -> str | None:
    """The disassembler: SC_CUOBJDUMP, on the PATH, beside nvcc, or from NVIDIA's Python package."""
    candidates = [os.environ.get("SC_CUOBJDUMP"), shutil.which("cuobjdump")]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parent / "cuobjdump"))
    if packages := importlib.util.find_spec("nvidia"):
        candidates += (str(found) for folder in packages.submodule_search_locations or ()
                       for found in sorted(Path(folder).glob("*/bin/cuobjdump")))
    return next((c for c in candidates if c and Path(c).is_file()), None)


def kernels_in(path: Path, cuobjdump: str) -> list[Kernel]:
    """Kernels of an object file or library."""
    folder = str(Path(cuobjdump).resolve().parent)      # nvdisasm lies there
    environment = {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
    dump = subprocess.run([cuobjdump, "--dump-sass", str(path)], env=environment, capture_output=True, text=True,
                          timeout=120, check=True).stdout
    return parse(dump)


def problems(kernels: list[Kernel]) -> list[str]:
    """What is not as designed; empty if all is well."""
    found = [f"{k.architecture} {k.name}: registers spill to memory ({k.count('STL')} stores, {k.count('LDL')} loads)"
             for k in kernels if k.count("STL") or k.count("LDL")]
    attention = [k for k in kernels if "segment_attention_kernel" in k.name]
    for head_dim in (64, 128):
        for narrow in (False, True):
            what = f"head {head_dim}, {'narrow' if narrow else 'bf16'} keys"
            of_kind = [k for k in attention if f"ILi{head_dim}ELb{int(narrow)}E" in k.name]
            for k in of_kind:
                check = _hopper_problems if k.architecture == "sm_90a" else _ampere_problems
                found += [f"{k.architecture} {what}: {problem}" for problem in check(k, head_dim, narrow)]
            if not of_kind:
                found.append(f"no segment_attention kernel for {what}")
    return found + _linear_problems(fused_linear_kernels(kernels))


def fused_linear_kernels(kernels: list[Kernel]) -> list[Kernel]:
    return [k for k in kernels if "cutlass" in k.name]


_WGMMA = re.compile(r"MMA_64x(\d+)x16_F32BF16BF16")
_FINISHES = 3


def _linear_problems(kernels: list[Kernel]) -> list[str]:
    """A build without CUTLASS has none of them; one with it has every finish in every tile."""
    found = []
    hopper = [k for k in kernels if k.architecture == "sm_90a"]
    other = [k for k in kernels if k.architecture != "sm_90a"]
    for kernel in hopper:
        columns = int(_WGMMA.search(kernel.name)[1])
        found += [f"sm_90a fused_linear, {columns} columns: {problem}" for problem in _wgmma_problems(kernel, columns)]
    for kernel in other:
        products = kernel.count("HMMA.16816.F32.BF16")
        if not products or products != kernel.count("HMMA") or not kernel.count("LDGSTS"):
            found.append(f"{kernel.architecture} fused_linear: {products} of {kernel.count('HMMA')} products are "
                         f"HMMA.16816.F32.BF16, {kernel.count('LDGSTS')} asynchronous copies")
    for architecture, count in Counter(k.architecture for k in kernels).items():
        tiles = 3 if architecture == "sm_90a" else 2
        if count != tiles * _FINISHES:
            found.append(f"{count} fused_linear kernels for {architecture}, expected {tiles * _FINISHES}")
    return found


def _wgmma_problems(kernel: Kernel, columns: int) -> list[str]:
    """The widest wgmma for the tile, all copies in bulk; tiles of 128 rows get their weights from a neighbour, too."""
    found = []
    shape = f"HGMMA.64x{columns}x16.F32.BF16"
    if not kernel.count(shape) or kernel.count(shape) != kernel.count("HGMMA"):
        found.append(f"{kernel.count(shape)} of {kernel.count('HGMMA')} products are {shape}")
    if not kernel.count("UTMALDG") or not kernel.count("UTMASTG"):
        found.append(f"{kernel.count('UTMALDG')} bulk loads, {kernel.count('UTMASTG')} bulk stores")
    if bool(kernel.count("UTMALDG.3D.MULTICAST")) != (columns > 64):
        found.append(f"{kernel.count('UTMALDG.3D.MULTICAST')} loads shared by a cluster")
    if kernel.count("USETMAXREG") != 2:
        found.append("registers are not reallocated")
    if kernel.count("WARPGROUP.DEPBAR") > 2:
        found.append(f"wgmma is serialised, {kernel.count('WARPGROUP.DEPBAR')} waits")
    return found


def _merge_problems(kernel: Kernel, places: int) -> list[str]:
    """Partial results: 16 bytes at a time, past L1 (whose loads may be stale), and one counter wherever a part ends."""
    found = []
    if not kernel.count("STG.E.128") or not kernel.count("LDG.E.128.STRONG.GPU"):
        found.append("partial results are not 16 bytes at a time through L2")
    if kernel.count("ATOMG") != places:
        found.append(f"{kernel.count('ATOMG')} atomic operations, expected {places}")
    return found


def _ampere_problems(kernel: Kernel, head_dim: int, narrow: bool) -> list[str]:
    """Tiles of 64 keys: 2 x 64 x head_dim multiplications of 16 rows, 2048 to an instruction."""
    shape = "HMMA.16816.F32" if narrow else "HMMA.16816.F32.BF16"
    found = _merge_problems(kernel, 1)
    if kernel.count(shape) != head_dim or kernel.count("HMMA") != head_dim:
        found.append(f"{kernel.count(shape)} of {kernel.count('HMMA')} products are {shape}, expected {head_dim}")
    if not narrow and kernel.count("LDGSTS") != 2 * 2 * 64 * head_dim * 2 // (16 * 256):
        found.append(f"{kernel.count('LDGSTS')} asynchronous copies")
    return found


def _hopper_problems(kernel: Kernel, head_dim: int, narrow: bool) -> list[str]:
    """Tiles of 128 keys: logits are m64n128k16, weighted values m64n<head_dim>k16; two of each in the code (first or
    last tile, and loop). bf16 keys come in bulk copies; narrow ones through registers, and e4m3 by the converter. A
    tile whose weights grow too large is multiplied again by mma.sync: all of its keys, 16 channels at a time."""
    kind = ".F32" if narrow else ".F32.BF16"
    wanted = Counter({f"HGMMA.64x128x16{kind}": 2 * head_dim // 16})
    wanted[f"HGMMA.64x{head_dim}x16{kind}"] += 2 * 128 // 16
    shapes = {opcode: kernel.count(opcode) for opcode in wanted}
    found = _merge_problems(kernel, 2)   # in the loop, and after it
    if shapes != dict(wanted) or sum(shapes.values()) != kernel.count("HGMMA"):
        found.append(f"wgmma shapes {shapes} of {kernel.count('HGMMA')}, not {dict(wanted)}")
    if (again := kernel.count("HMMA")) != 128 // 8 or kernel.count(f"HMMA.16816{kind}") != again:
        found.append(f"{again} products by mma.sync, expected {128 // 8} of HMMA.16816{kind}")
    copies = 0 if narrow else 2 * head_dim // 64
    if kernel.count("UTMALDG") != copies:
        found.append(f"{kernel.count('UTMALDG')} bulk copies, expected {copies}")
    if narrow and not kernel.count("F2FP.F16.E4M3.UNPACK_B"):
        found.append("e4m3 is not converted by the instruction for it")
    if kernel.count("USETMAXREG") != 2:
        found.append("registers are not reallocated")
    if kernel.count("WARPGROUP.DEPBAR") > 4:
        found.append(f"wgmma is serialised, {kernel.count('WARPGROUP.DEPBAR')} waits")
    if (softmax := kernel.overlapped["MUFU.EX2"]) < 2 * 64:    # with the maximum, and without
        found.append(f"{softmax} exponentials while the values of the tile before are summed, not two tiles' 64")
    if not kernel.count("FENCE.VIEW.ASYNC"):
        found.append("ordinary stores are not fenced for wgmma")
    return found
