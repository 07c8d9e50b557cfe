"""Held-out everyday sentences for measuring intelligibility, in the style of the Harvard sentences."""
from __future__ import annotations

EVALUATION_SENTENCES: tuple[str, ...] = ("placeholder",)
