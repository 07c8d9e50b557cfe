"""Identity as a similarity: 1 is the reference picture itself, 0 is as far from it as the other characters are."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import mean, median

from streamchar_rt.drift import Drift, Look, drift_between


def stranger_distance(looks: Sequence[Look]) -> float:
    """Median of the drift meter's distance between the reference pictures of different characters."""
    return median(drift_between(a, b).distance for a, b in combinations(looks, 2))


def identity_similarity(drifts: Sequence[Drift], stranger: float) -> float:
    """``1 - distance / stranger``, mean over chunks; below 0 for a picture that is further away than strangers."""
    return 1 - mean(d.distance for d in drifts) / stranger
