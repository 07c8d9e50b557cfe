"""Where the build looks for CUTLASS: cmake/Cutlass.cmake on folders and wheels that only look like it."""
from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from .capi_support import ROOT, program

INCLUDE = "cutlass_library/source/include"


def headers(folder, major=4):
    path = folder / "cutlass/version.h"
    path.parent.mkdir(parents=True)
    path.write_text(f"#define CUTLASS_MAJOR {major}\n#define CUTLASS_MINOR 2\n#define CUTLASS_PATCH 1\n"
                    "#define CUTLASS_BUILD 9\n")
    return folder


def look(folder, value, path=()):
    """(exit status, output, include folder and version as found)"""
    script = folder / "probe.cmake"
    script.write_text(f'include("{ROOT / "cmake/Cutlass.cmake"}")\n'
                      'file(WRITE found.txt "${cutlass_version}\\n${cutlass_include}")\n')
    done = subprocess.run(
        [program("cmake"), f"-DSC_CUTLASS_DIR={value}", f"-DPython_EXECUTABLE={sys.executable}", "-P", str(script)],
        cwd=folder, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, path))}, capture_output=True,
        text=True, timeout=120)
    found = folder / "found.txt"
    version, include = found.read_text().split("\n") if done.returncode == 0 else ("", "")
    return done.returncode, done.stdout + done.stderr, (version, include.rstrip("/"))


@pytest.mark.parametrize("inside", ["include", INCLUDE, "source/include"])
def test_a_folder_is_taken_whichever_it_is(tmp_path, inside):
    headers(tmp_path / "given" / inside)
    code, text, found = look(tmp_path, tmp_path / "given")
    assert code == 0 and found == ("4.2.1", str(tmp_path / "given" / inside)) and "with CUTLASS 4.2.1" in text


def test_a_wheel_is_unpacked_into_the_build(tmp_path):
    headers(tmp_path / "content" / INCLUDE)
    wheel, build = tmp_path / "nvidia_cutlass-4.2.1-py3-none-any.whl", tmp_path / "build"
    build.mkdir()
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(tmp_path / "content" / INCLUDE / "cutlass/version.h", f"{INCLUDE}/cutlass/version.h")
        file.writestr("cutlass_library/source/examples/large.cu", "")
    for _ in range(2):
        code, _, found = look(build, wheel)
        assert code == 0 and found == ("4.2.1", str(build / wheel.name / INCLUDE))
    assert not (build / wheel.name / "cutlass_library/source/examples").exists()


def test_an_installed_package_is_found_unless_it_is_refused(tmp_path):
    headers(tmp_path / "site" / INCLUDE)
    (tmp_path / "site/cutlass_library/__init__.py").touch()
    code, _, found = look(tmp_path, "", [tmp_path / "site"])
    assert code == 0 and found == ("4.2.1", str(tmp_path / "site" / INCLUDE))
    code, text, (version, _) = look(tmp_path, "OFF", [tmp_path / "site"])
    assert code == 0 and version == "" and "no (SC_CUTLASS_DIR=OFF)" in text


def test_without_it_the_build_goes_on_and_says_so(tmp_path):
    (tmp_path / "site/cutlass_library").mkdir(parents=True)
    for path in ([], [tmp_path / "site"]):
        code, text, (version, _) = look(tmp_path, "", path)
        assert code == 0 and version == "" and "fused linear layers: no (" in text


def test_a_folder_without_it_or_an_older_one_is_an_error(tmp_path):
    headers(tmp_path / "old/include", major=3)
    for given in (tmp_path / "nothing", tmp_path / "old"):
        code, text, _ = look(tmp_path, given)
        assert code != 0 and "no headers of CUTLASS 4" in text
