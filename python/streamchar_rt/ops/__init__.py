"""Python faces of the native ops. The only package that imports ``streamchar_rt._native``."""
from __future__ import annotations

from . import reference
from .attention import append, attend
from .audible_velocity import audible_velocity
from .condition_encoder import ConditionEncoder
from .condition_head import ConditionHead, ConditionLayer
from .context_cache import ContextCache, Snapshot
from .functional import native_attention_serves, normalize_rotate, ready_rows, segment_attention
from .joint_blocks import JointBlocks, JointHalf
from .language_model import DecoderLayer, LanguageModel
from .linear import fused_linear, fused_linear_serves
from .machine import kernels_in_use, set_num_threads, threads
from .modulation import adaln_modulate, gated_residual
from .norm import QkNorm
from .packed_conv import PackedConv
from .packed_linear import PackedLinear, Storage
from .part_motion import PartMotion
from .picture import picture_blend, picture_warp, with_rim
from .rope import Rope, rope_frequencies
from .synthesis import istft_overlap_add
from .transcript_reader import TranscriptReader
from .video_layers import KnownCharacter, LatentDrawing, VideoLayers
from .vocoder_layers import VocoderBlock, VocoderLayers

__all__ = [
    "ConditionEncoder",
    "ConditionHead",
    "ConditionLayer",
    "ContextCache",
    "DecoderLayer",
    "JointBlocks",
    "JointHalf",
    "KnownCharacter",
    "LanguageModel",
    "LatentDrawing",
    "PackedConv",
    "PackedLinear",
    "PartMotion",
    "Storage",
    "QkNorm",
    "Rope",
    "Snapshot",
    "TranscriptReader",
    "VideoLayers",
    "VocoderBlock",
    "VocoderLayers",
    "adaln_modulate",
    "append",
    "attend",
    "audible_velocity",
    "fused_linear",
    "fused_linear_serves",
    "gated_residual",
    "istft_overlap_add",
    "kernels_in_use",
    "native_attention_serves",
    "normalize_rotate",
    "picture_blend",
    "picture_warp",
    "ready_rows",
    "reference",
    "rope_frequencies",
    "segment_attention",
    "set_num_threads",
    "threads",
    "with_rim",
]
