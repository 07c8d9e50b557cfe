"""Long measurements that can be stopped and taken up again: one JSON line for each item that is finished."""
from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Results = Callable[[Sequence[str]], Iterable[tuple[str, Record]]]


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
    return _collect(path, settings, keys, lambda missing: ((key, work(key)) for key in missing), tell)


def run_in(processes: int, path: Path, settings: Mapping[str, Any], keys: Sequence[str],
           make: Callable[[], Callable[[str], Record]], tell: Callable[[str], None] | None = None) -> dict[str, Record]:
    """``run`` with what ``make()`` gives: in this process or, if several are wanted, by each of them what it takes next.

    ``make``: made only where something is left to do; it is sent to the processes, so a module's function.
    """
    def side_by_side(missing: Sequence[str]) -> Iterator[tuple[str, Record]]:
        with multiprocessing.get_context("spawn").Pool(min(processes, len(missing)), _begin, (make,)) as pool:
            yield from pool.imap_unordered(_one, missing)

    def here(missing: Sequence[str]) -> Iterator[tuple[str, Record]]:
        work = make()
        yield from ((key, work(key)) for key in missing)

    return _collect(path, settings, keys, side_by_side if processes > 1 else here, tell)


def _collect(path: Path, settings: Mapping[str, Any], keys: Sequence[str], results: Results,
             tell: Callable[[str], None] | None) -> dict[str, Record]:
    """``results`` gives those of the keys that are missing, in any order."""
    tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    settings = json.loads(json.dumps(settings))
    found = records(path, settings)
    missing = [key for key in keys if key not in found]
    if len(missing) < len(keys):
        tell(f"{len(keys) - len(missing)} of {len(keys)} are done already")
    begun = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        for i, (key, record) in enumerate(results(missing) if missing else (), 1):
            line = json.dumps({"key": key, **record})
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
            found[key] = json.loads(line)
            left = (time.monotonic() - begun) / i * (len(missing) - i)
            tell(f"{len(keys) - len(missing) + i}/{len(keys)} {key}, {duration(left)} left")
    return {key: found[key] for key in keys}


def _begin(make: Callable[[], Callable[[str], Record]]) -> None:
    global _work
    _work = make()


def _one(key: str) -> tuple[str, Record]:
    return key, _work(key)


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
