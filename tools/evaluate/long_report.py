"""The figures and the page of ``long_horizon``."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.evaluate.lip_sync import best_offset
from tools.evaluate.report import Page
from tools.evaluate.sync_expert import best_sync

_BY_MINUTE = ("wer", "per", "sync", "alignment", "energy", "distance", "colour", "structure", "similarity", "movement")
_TITLES = {"wer": "word error rate, %", "per": "phone error rate, %", "sync": "sync expert: confidence",
           "distance": "drift meter: distance", "similarity": "identity similarity",
           "alignment": "mouth against the phones, correlation", "movement": "change from frame to frame, 1/255"}


def summarize(records: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """By variant, the truth last: figures of the whole and, in ``minutes``, of each minute over all transcripts."""
    kinds = sorted({r["variant"] for r in records.values()}, key=lambda kind: (kind == "truth", kind != "sink", kind))
    return {kind: _summary([r for r in records.values() if r["variant"] == kind]) for kind in kinds}


def _summary(rows: Sequence[dict]) -> dict[str, Any]:
    count = max(len(r["minutes"]) for r in rows)
    minutes = [_minute([r["minutes"][i] for r in rows if len(r["minutes"]) > i]) for i in range(count)]
    words = sum(r["words"] for r in rows)
    errors = sum(m["errors"] for r in rows for m in r["minutes"])
    mean = lambda values: float(np.mean(values)) if len(values) else float("nan")
    told = [r["end_times"] for r in rows if r["end_times"]["words"]]
    over = lambda name: mean([t[name] for t in told])
    # A stream's own change, so that transcripts of different lengths and characters do not mix.
    first_last = [(r["minutes"][0], r["minutes"][-1]) for r in rows]
    rate = lambda m: m["errors"] / max(1, m["words"])
    out = {
        "transcripts": len(rows), "seconds": sum(r["seconds"] for r in rows), "words": words,
        "wer": errors / max(1, words), "per": _share(rows, "phone_errors", "phones"), "sync": _sync(rows),
        "wer_change": mean([rate(b) - rate(a) for a, b in first_last]),
        "per_change": mean([b["phone_errors"] / max(1, b["phones"]) - a["phone_errors"] / max(1, a["phones"])
                            for a, b in first_last]),
        "drift_change": mean([b["distance"] - a["distance"] for a, b in first_last]),
        "wer_trend": trend([[rate(m) for m in r["minutes"]] for r in rows])._asdict(),
        "per_trend": trend([[m["phone_errors"] / max(1, m["phones"]) for m in r["minutes"]] for r in rows])._asdict(),
        "dropped": sum(len(r["dropped"]) for r in rows), "repeated": sum(len(r["repeated"]) for r in rows),
        "end_time": {"words": sum(t["words"] for t in told),
                     **{name: over(name) for name in ("median", "absolute_median", "within_100_ms")}},
        "frame_seam": mean([r["frame_seams"]["ratio"] for r in rows]),
        "frame_outliers": mean([r["frame_seams"]["outliers"] for r in rows]),
        "latent_seam": mean([r["latent_seams"]["ratio"] for r in rows]),
        "sound_seam": mean([r["sound_seams"]["ratio"] for r in rows]),
        "sound_outliers": mean([r["sound_seams"]["outliers"] for r in rows]),
        "events": sum(len(r["events"]) for r in rows), "minutes": minutes,
    }
    for name in ("distance", "colour", "structure", "similarity", "movement"):
        out[name] = mean([m[name] for m in minutes])
    if rows[0]["runtime"] is not None:
        out["runtime"] = {name: sum(len(r["runtime"][name]) for r in rows) for name in ("dropped", "repeated")}
        out["real_time_factor"] = float(np.median([r["real_time_factor"] for r in rows]))
    return out


class Trend(NamedTuple):
    a_minute: float
    standard_error: float


def trend(streams: Sequence[Sequence[float]]) -> Trend:
    """How a figure changes from minute to minute: one line's slope, least squares, with a level for each stream.

    One minute's words say little (a hundred words more or less hard move its error rate by several points), so the
    first and the last minute alone tell no trend from chance. NaN where there are too few minutes.
    """
    at = [np.arange(len(s)) - (len(s) - 1) / 2 for s in streams]
    values = [np.asarray(s, np.float64) - np.mean(s) for s in streams]
    x, y = np.concatenate(at), np.concatenate(values)
    spread, free = float(x @ x), len(x) - len(streams) - 1
    if free < 1 or spread == 0:
        return Trend(float("nan"), float("nan"))
    slope = float(x @ y) / spread
    return Trend(slope, float(np.sqrt(np.square(y - slope * x).sum() / free / spread)))


def _share(rows: Sequence[dict], part: str, whole: str) -> float:
    """Of all minutes of the records."""
    minutes = [m for r in rows for m in r["minutes"]]
    return sum(m[part] for m in minutes) / max(1, sum(m[whole] for m in minutes))


def _sync(rows: Sequence[dict]) -> dict[str, float]:
    minutes = [m for r in rows for m in r["minutes"]]
    return best_sync([m["sync"] for m in minutes], [m["frames"] for m in minutes])._asdict()


def _minute(parts: Sequence[dict]) -> dict[str, Any]:
    weights = [p["track_frames"] for p in parts]
    mean = lambda name: float(np.mean([p[name] for p in parts]))
    return {"wer": sum(p["errors"] for p in parts) / max(1, sum(p["words"] for p in parts)),
            "per": sum(p["phone_errors"] for p in parts) / max(1, sum(p["phones"] for p in parts)),
            "sync": best_sync([p["sync"] for p in parts], [p["frames"] for p in parts])._asdict(),
            "words": sum(p["words"] for p in parts),
            **{m: best_offset([p[m] for p in parts], weights)._asdict() for m in ("alignment", "energy")},
            **{name: mean(name) for name in ("distance", "colour", "structure", "similarity", "movement")}}


def page_of(summary: dict[str, dict], records: dict[str, dict], folder: Path, settings: dict[str, Any]) -> Page:
    page = Page("Long horizon")
    page.text(f"{settings['transcripts']} transcripts of {min(settings['words'])} words and more, "
              f"{settings['minutes']:g} minutes of each; model {settings['model']}, {settings['machine']}.")
    page.code(f"python -m tools.evaluate.long_horizon --transcripts {settings['transcripts']} "
              f"--minutes-each {settings['minutes']:g} --seed {settings['seed']}")
    kinds = list(summary)
    row = lambda title, value: [title, *(value(summary[kind]) for kind in kinds)]
    told = lambda name: lambda s: None if "runtime" not in s else s["runtime"][name]
    page.table(["measure", *kinds], [
        row("transcripts", lambda s: s["transcripts"]),
        row("words", lambda s: s["words"]),
        row("word error rate, %", lambda s: 100 * s["wer"]),
        row("the same, last minute less first, points", lambda s: 100 * s["wer_change"]),
        row("the same, trend, points a minute ± standard error", lambda s: _trend(s["wer_trend"])),
        row("phone error rate (second judge), %", lambda s: 100 * s["per"]),
        row("the same, last minute less first, points", lambda s: 100 * s["per_change"]),
        row("the same, trend, points a minute ± standard error", lambda s: _trend(s["per_trend"])),
        row("sync expert: offset, frames", lambda s: s["sync"]["offset"]),
        row("sync expert: confidence", lambda s: s["sync"]["confidence"]),
        row("drift meter: distance", lambda s: s["distance"]),
        row("the same, last minute less first", lambda s: s["drift_change"]),
        row("identity similarity to the reference", lambda s: s["similarity"]),
        row("movement, 1/255", lambda s: s["movement"]),
        row("words dropped, as heard", lambda s: s["dropped"]),
        row("words repeated, as heard", lambda s: s["repeated"]),
        row("dropped, as heard, of 1000 words", lambda s: 1000 * s["dropped"] / max(1, s["words"])),
        row("repeated, as heard, of 1000 words", lambda s: 1000 * s["repeated"] / max(1, s["words"])),
        row("words dropped, as the runtime tells", told("dropped")),
        row("words repeated, as the runtime tells", told("repeated")),
        row("word ends: told less heard, median ms", lambda s: 1000 * s["end_time"]["median"]),
        row("word ends: size of that, median ms", lambda s: 1000 * s["end_time"]["absolute_median"]),
        row("word ends within 100 ms, %", lambda s: 100 * s["end_time"]["within_100_ms"]),
        row("frame jump at chunks' joins / inside latents", lambda s: s["frame_seam"]),
        row("frame jump at latents' joins / inside latents", lambda s: s["latent_seam"]),
        row("joins beyond the inside's 99th percentile, %", lambda s: 100 * s["frame_outliers"]),
        row("sound: sharpness at joins / inside", lambda s: s["sound_seam"]),
        row("joins beyond the inside's 99th percentile, %", lambda s: 100 * s["sound_outliers"]),
        row("drift and stall events", lambda s: s["events"]),
        row("real-time factor, median", lambda s: s.get("real_time_factor")),
    ])
    page.text("Truth is flite's speech of the same texts under the studio's drawing, through the same judges, cut into "
              "the same chunks; its word ends are flite's own, so their error is the recogniser's. A dropped word is "
              "one that the recogniser heard nothing for; a repeated one was heard twice in a row where the text has it "
              "once.")
    page.heading("By minute")
    for name, title in _TITLES.items():
        value = lambda m: _number(m, name)
        page.chart({kind: [(i + 1.0, value(m)) for i, m in enumerate(s["minutes"])] for kind, s in summary.items()},
                   x="minute", y=title)
    page.table(["minute", "variant", *(_TITLES.get(name, name) for name in _BY_MINUTE)],
               [[i + 1, kind, *(_plain(m, name) for name in _BY_MINUTE)]
                for kind, s in summary.items() for i, m in enumerate(s["minutes"])])
    page.heading("Drift along the streams")
    chunk_minutes = 0.64 / 60
    page.chart({f"{r['variant']} {key.rsplit('/', 1)[1]}": _thinned(r["drift"], chunk_minutes)
                for key, r in list(records.items())[:6]}, x="minute", y="drift meter: distance",
               caption="mean of eight chunks a point")
    for key, record in records.items():
        stem = key.replace("/", "-")
        if record["variant"] == "truth" and int(key.rsplit("/", 1)[1]) or not (folder / f"{stem}.jpg").exists():
            continue
        page.heading(f"{key}: {record['character']}, voice {record['voice']}")
        page.picture(folder / f"{stem}.jpg", "a frame every five seconds")
        page.sound(folder / f"{stem}-begin.wav", "the beginning")
        page.sound(folder / f"{stem}-end.wav", "the end")
        page.text("Heard nothing for: " + (", ".join(record["dropped"]) or "none"))
        page.text("Heard twice: " + (", ".join(record["repeated"]) or "none"))
    return page


def _trend(found: dict[str, float]) -> str:
    return f"{100 * found['a_minute']:+.2f} ± {100 * found['standard_error']:.2f}"


def _number(minute: dict[str, Any], name: str) -> float:
    value = minute[name]
    if name in ("wer", "per"):
        return 100 * value
    return value.get("correlation", value.get("confidence")) if isinstance(value, dict) else value


def _plain(minute: dict[str, Any], name: str) -> float | str:
    if name in ("alignment", "energy"):
        return f"{minute[name]['correlation']:.3f} at {minute[name]['offset']:+d}"
    if name == "sync":
        return f"{minute[name]['confidence']:.3f} at {minute[name]['offset']:+d}"
    return _number(minute, name)


def _thinned(values: Sequence[float], step: float, of: int = 8) -> list[tuple[float, float]]:
    return [((i + of / 2) * step, float(np.mean(values[i: i + of]))) for i in range(0, len(values), of)]
