"""Mouth shapes of the 15 visemes."""

from __future__ import annotations

import numpy as np

from streamchar_rt.orchestrator.visemes import PHONE_TO_VISEME, VISEMES

__all__ = ["MOUTH_FIELDS", "MOUTH_SHAPES", "PHONE_TO_VISEME", "VISEMES"]

MOUTH_FIELDS: tuple[str, ...] = ("mouth_open", "mouth_wide", "mouth_round", "teeth", "tongue")

#: float32 (15, 5): rows in VISEMES order, columns in MOUTH_FIELDS order
MOUTH_SHAPES: np.ndarray = np.array(
    [
        (0.00, 0.00, 0.00, 0.00, 0.00),  # sil
        (0.00, -0.25, 0.10, 0.00, 0.00),  # PP
        (0.10, 0.10, 0.00, 1.00, 0.00),  # FF
        (0.24, 0.15, 0.00, 0.55, 1.00),  # TH
        (0.26, 0.20, 0.00, 0.60, 0.45),  # DD
        (0.34, 0.10, 0.00, 0.35, 0.15),  # kk
        (0.26, -0.30, 0.60, 1.00, 0.00),  # CH
        (0.16, 0.55, 0.00, 1.00, 0.00),  # SS
        (0.28, 0.10, 0.00, 0.45, 0.80),  # nn
        (0.30, -0.25, 0.50, 0.40, 0.30),  # RR
        (0.95, 0.15, 0.00, 0.55, 0.10),  # aa
        (0.58, 0.65, 0.00, 0.65, 0.15),  # E
        (0.36, 0.90, 0.00, 0.75, 0.15),  # ih
        (0.68, -0.35, 0.72, 0.20, 0.00),  # oh
        (0.32, -0.60, 1.00, 0.00, 0.00),  # ou
    ],
    np.float32,
)
