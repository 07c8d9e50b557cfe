"""Pose tracks: what moves in a studio character.

A pose track is float32 of shape (T, len(POSE_FIELDS)); one row is a pose. Directions are
the picture's: +x is right, +y is down.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

#: name -> (lowest, highest, what it means)
POSE_RANGES: dict[str, tuple[float, float, str]] = {
    "yaw": (-1, 1, "head turned, + towards the right of the picture"),
    "pitch": (-1, 1, "head nodded, + downwards"),
    "roll": (-1, 1, "head tilted, + clockwise (1 is 6 degrees)"),
    "head_x": (-1, 1, "whole upper body swayed sideways (1 is 4 px of 256)"),
    "head_y": (-1, 1, "head sunk (+) or stretched (1 is 3 px of 256)"),
    "breath": (0, 1, "chest filled"),
    "hair_sway": (-1, 1, "loose hair lagging to the right"),
    "mouth_open": (0, 1, "jaw and lips parted; 0 is closed"),
    "mouth_wide": (-1, 1, "corners spread (+) or drawn in"),
    "mouth_round": (0, 1, "lips rounded"),
    "teeth": (0, 1, "share of the opening that teeth fill"),
    "tongue": (0, 1, "tongue raised between the teeth"),
    "blink_l": (0, 1, "left eye of the picture closed"),
    "blink_r": (0, 1, "right eye of the picture closed"),
    "gaze_x": (-1, 1, "both irises, + right"),
    "gaze_y": (-1, 1, "both irises, + down"),
    "brow_raise": (-1, 1, "both brows up"),
    "brow_furrow": (-1, 1, "inner brow ends down (+, angry) or up (-, worried)"),
    "smile": (-1, 1, "mouth corners up (+) or down"),
    "blush": (0, 1, "cheeks coloured"),
    "eye_squint": (-1, 1, "lower lids raised (+) or eyes widened (-)"),
}

POSE_FIELDS: tuple[str, ...] = tuple(POSE_RANGES)
#: field name -> column
COLUMN: dict[str, int] = {name: i for i, name in enumerate(POSE_FIELDS)}

PoseArray: TypeAlias = np.ndarray  # float32, (P,) for one pose or (T, P) for a track

_LOW = np.array([POSE_RANGES[f][0] for f in POSE_FIELDS], np.float32)
_HIGH = np.array([POSE_RANGES[f][1] for f in POSE_FIELDS], np.float32)


def pose(**fields: float) -> PoseArray:
    """The rest pose with some fields set: float32 (P,). Raises KeyError for an unknown field."""
    out = REST.copy()
    for name, value in fields.items():
        out[COLUMN[name]] = value
    return out


def clamp(track: PoseArray) -> PoseArray:
    """The track with every field inside its range; same shape, float32."""
    return np.clip(track, _LOW, _HIGH).astype(np.float32)


#: looking at the camera, mouth closed, eyes open: the reference picture's pose
REST: PoseArray = np.zeros(len(POSE_FIELDS), np.float32)
REST[COLUMN["smile"]] = 0.4
REST[COLUMN["blush"]] = 0.2
REST.setflags(write=False)
