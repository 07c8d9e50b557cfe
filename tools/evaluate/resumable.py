"""Long measurements that can be stopped and taken up again: one JSON line for each item that is finished."""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class OtherSettingsError(SystemExit):
    """The file holds results of other settings."""


def run(path: Path, settings: Mapping[str, Any], keys: Sequence[str], work: Callable[[str], Record],
        tell: Callable[[str], None] | None = None) -> dict[str, Record]:
    """``work(key)`` for every key that ``path`` does not hold yet; each result is on disk before the next begins.

    Args:
        path: JSON lines; made where it is missing. A last line that was not written to its end is dropped.
        settings: what the results depend on, plain values.
        work: gives a JSON object.
        tell: takes a line of progress after each item, with the time left; None: standard error.

    Returns:
        Records by key, in the order of ``keys``; those of other keys stay in the file and are left out.

    Raises:
        OtherSettingsError: where the file was made with other settings; nothing is changed then.
    """
    tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    settings = json.loads(json.dumps(settings))
    found = records(path, settings)
    missing = [key for key in keys if key not in found]
    if len(missing) < len(keys):
        tell(f"{len(keys) - len(missing)} of {len(keys)} are done already")
    begun = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        for i, key in enumerate(missing, 1):
            record = work(key)
            line = json.dumps({"key": key, **record})
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
            found[key] = json.loads(line)
            left = (time.monotonic() - begun) / i * (len(missing) - i)
            tell(f"{len(keys) - len(missing) + i}/{len(keys)} {key}, {duration(left)} left")
    return {key: found[key] for key in keys}


def records(path: Path, settings: Mapping[str, Any]) -> dict[str, Record]:
    """The finished items of a file; makes the file, or cuts off a line that is not whole, where needed."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if lines[-1]:
        path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    content = [json.loads(line) for line in lines[:-1]]
    if not content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
        return {}
    before = content[0].get("settings", {})
    if before != settings:
        names = sorted(n for n in {*before, *settings} if before.get(n) != settings.get(n))
        raise OtherSettingsError(f"{path} was made with other settings ({', '.join(names)}); choose another --out")
    return {record["key"]: record for record in content[1:]}


def duration(seconds: float) -> str:
    """For people: "42 s", "7 min", "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
