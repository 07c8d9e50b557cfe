"""Python faces of the native ops. The only package that imports ``streamchar_rt._native``."""
from __future__ import annotations

from . import reference
from .attention import append, attend
from .context_cache import ContextCache, Snapshot
from .functional import normalize_rotate, segment_attention
from .machine import kernels_in_use, set_num_threads
from .norm import QkNorm
from .rope import Rope, rope_frequencies

__all__ = [
    "ContextCache",
    "QkNorm",
    "Rope",
    "Snapshot",
    "append",
    "attend",
    "kernels_in_use",
    "normalize_rotate",
    "reference",
    "rope_frequencies",
    "segment_attention",
    "set_num_threads",
]
