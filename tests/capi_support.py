"""Builds libstreamchar, and binds it with ctypes from what its header says."""
from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "csrc/include/streamchar/streamchar.h"
_TYPES = {
    "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float, "size_t": ctypes.c_size_t, "sc_status": ctypes.c_int32, "void": None,
}


def program(*names: str) -> str:
    """The path of the first program that is there, beside this Python or on the path; skips the test without one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def configure_and_build(source: Path, build: Path, *options: str) -> None:
    cmake = program("cmake")
    version = re.search(r"version (\d+)\.(\d+)", run(cmake, "--version"))
    if tuple(map(int, version.groups())) < (3, 25):
        pytest.skip(f"cmake is {version.group()}, 3.25 is needed")
    run(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", "-S", source, "-B", build, *options)
    run(cmake, "--build", build)


def install(folder: Path) -> Path:
    """The library installed, with its portable kernels alone: the others are the Python module's, and tested there.

    STREAMCHAR_CAPI_PREFIX names an installation to test instead, with whatever kernels it has.
    """
    if prefix := os.environ.get("STREAMCHAR_CAPI_PREFIX"):
        return Path(prefix)
    program("c++", "g++", "clang++")
    configure_and_build(
        ROOT, folder / "build", "-DSC_BUILD_CAPI=ON", "-DSC_BUILD_PYTHON=OFF", "-DSC_PORTABLE=ON",
        "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O2",
    )
    run(program("cmake"), "--install", folder / "build", "--prefix", folder / "prefix")
    return folder / "prefix"


class Header:
    """The declarations of streamchar.h, which keeps to one plain style."""

    def __init__(self) -> None:
        text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
        self.constants = re.findall(r"^#define (SC_\w+) \S", text, re.M)
        self.constants = [name for name in self.constants if name not in ("SC_API", "SC_CALL")]
        for body in re.findall(r"enum \{(.*?)\}", text, re.S):
            self.constants += re.findall(r"(SC_\w+) =", body)
        self.structs = {
            name: [entry for line in body.split(";") if line.strip() for entry in self._fields(line)]
            for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, re.S)
        }
        self.functions = {
            name: (result.strip(), [" ".join(a.split()) for a in arguments.split(",") if a.strip() != "void"])
            for result, name, arguments in re.findall(r"SC_API ([\w ]+?\*?) ?SC_CALL (\w+)\((.*?)\);", text, re.S)
        }

    @staticmethod
    def _fields(line: str) -> list[tuple[str, str]]:
        """(type, name) of "float *a" or "int32_t b, c"."""
        kind, names = re.fullmatch(r"\s*((?:const )?\w+ \*?)([\w, ]+?)\s*", line, re.S).groups()
        return [(kind.strip(), name.strip()) for name in names.split(",")]


def _type(declared: str):
    if "*" in declared:
        return ctypes.c_char_p if re.match(r"const char \*\w*$", declared) else ctypes.c_void_p
    return _TYPES[declared.split()[0]]


class Library:
    """libstreamchar; its functions and structs are attributes, its constants come from a compiled program."""

    def __init__(self, prefix: Path, header: Header, constants: dict[str, int]) -> None:
        path = next(prefix.glob("lib*/**/libstreamchar.so"), None)
        assert path is not None, f"no library under {prefix}"
        self.prefix, self.path, self.header = prefix, path, header
        self._library = ctypes.CDLL(str(path))
        for name, fields in header.structs.items():
            members = [(field, getattr(self, kind, None) or _type(kind)) for kind, field in fields]
            setattr(self, name, type(name, (ctypes.Structure,), {"_fields_": members}))
        for name, (result, arguments) in header.functions.items():
            function = self._library[name]
            function.restype, function.argtypes = _type(result), [_type(a) for a in arguments]
            setattr(self, name, function)
        for name, value in constants.items():
            setattr(self, name, value)

    def make(self, name: str, **fields):
        """A struct prepared by its init function."""
        struct = getattr(self, name)()
        getattr(self, f"{name}_init")(ctypes.byref(struct), ctypes.sizeof(struct))
        for field, value in fields.items():
            setattr(struct, field, value.ctypes.data if isinstance(value, np.ndarray) else value)
        return struct

    def call(self, name: str, *arguments) -> None:
        """Must succeed. Structs go by reference, arrays as addresses."""
        status = getattr(self, name)(*map(_argument, arguments))
        assert status == 0, f"{name}: {self.sc_status_name(status)}: {self.message()}"

    def refuses(self, status: int, name: str, *arguments) -> str:
        """Must fail with this status and a remedy; returns the message."""
        got = getattr(self, name)(*map(_argument, arguments))
        assert got == status, f"{name}: {self.sc_status_name(got)} {self.message()}"
        what, remedy = self.message().split("; try: ")
        assert what and remedy
        return self.message()

    def message(self) -> str:
        buffer = ctypes.create_string_buffer(self.sc_last_error_message(None, 0) + 1)
        self.sc_last_error_message(buffer, len(buffer))
        return buffer.value.decode()

    def tokens(self, x: np.ndarray):
        """(T, H, D) float32 with contiguous channels."""
        assert x.dtype == np.float32 and x.strides[2] == 4
        return self.sc_token_view(x.ctypes.data, x.strides[0] // 4, x.strides[1] // 4)


def _argument(value):
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    return ctypes.byref(value) if isinstance(value, ctypes.Structure) else value


def measure(header: Header, prefix: Path, folder: Path) -> list[str]:
    """Sizes, offsets and values as a C99 and a C++17 compiler see them, both strict; they must agree."""
    source = folder / "measure.c"
    lines = [f'printf("constant {name} %lld\\n", (long long){name});' for name in header.constants]
    for name, fields in header.structs.items():
        lines.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("field {name}.{field}: {kind} %zu %zu\\n", offsetof({name}, {field}), '
            f'sizeof((({name} *)0)->{field}));'
            for kind, field in fields
        ]
    source.write_text("#include <streamchar/streamchar.h>\n#include <stdio.h>\nint main(void) {\n%s\nreturn 0;\n}\n"
                      % "\n".join(lines))
    strict = ["-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{prefix / 'include'}", source]
    c, cpp = folder / "measure_c", folder / "measure_cpp"
    run(program("cc", "gcc", "clang"), "-std=c99", *strict, "-o", c)
    run(program("c++", "g++", "clang++"), "-x", "c++", "-std=c++17", *strict, "-o", cpp)
    found = run(c)
    assert found == run(cpp)
    functions = [f"function {result} {name}({', '.join(a)})" for name, (result, a) in header.functions.items()]
    return found.splitlines() + functions


def load(folder: Path) -> Library:
    """Builds and installs the library under ``folder``, and binds it."""
    prefix, header = install(folder), Header()
    facts = measure(header, prefix, folder)
    constants = {name: int(value) for kind, name, value in map(str.split, facts[: len(header.constants)])}
    library = Library(prefix, header, constants)
    library.facts = facts
    return library
