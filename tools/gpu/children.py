"""Commands side by side, each in a process of its own: an invalid memory access ends one of them, not all."""
from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

TIMEOUT = 124     # the exit status of a command that was ended, as timeout(1) has it


def side_by_side(commands: Mapping[str, Sequence[str]], seconds: float, environment: Mapping[str, str] | None = None,
                 ) -> dict[str, int]:
    """Runs all at once, prints what each had to say, and gives their exit statuses."""
    end = time.monotonic() + seconds
    running = {}
    for name, command in commands.items():
        said = tempfile.TemporaryFile("w+", errors="replace")
        running[name] = said, subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                                               env=None if environment is None else {**os.environ, **environment})
    codes = {}
    for name, (said, process) in running.items():
        try:
            codes[name] = process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            codes[name] = TIMEOUT
        said.seek(0)
        print(f"-- {name}: exit {codes[name]}\n{said.read()}", flush=True)
        said.close()
    return codes
