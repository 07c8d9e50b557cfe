"""The orchestrator (paper, section 3.2): a language model over transcript and history, and a condition head.

The language model, a Qwen-class decoder, runs once a chunk over the packed sequence
[style | transcript window | audio history]. The condition head runs in a denoising step: it takes the
model's states with the noisy audio and the flow time, and aligns every half-frame (20 ms) of the chunk, and a
little beyond it, with a unit of the transcript window. The cross-attention that does so is the pointer.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from ..timestep import timestep_features
from .units import NUM_UNITS, PAD


@dataclass(frozen=True)
class OrchestratorConfig:
    width: int = 192
    layers: int = 3
    heads: int = 3
    kv_heads: int = 0            # of the language model; 0: as many as heads
    feed_forward: int = 512
    head_layers: int = 2
    head_feed_forward: int = 384
    voices: int = 4
    window: int = 32             # transcript units in sight
    window_before: int = 6       # of which before the pointer
    history_tokens: int = 32     # audio tokens of 40 ms: 1.28 s
    slots: int = 32              # half-frames a chunk
    lookahead: int = 8           # half-frames planned beyond it
    mel_bins: int = 80

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass
class TranscriptWindow:
    """The units in sight, (B, W) each; the pointer's unit stands at ``window_before``."""
    unit: torch.Tensor           # int64, PAD where there is none
    stress: torch.Tensor         # int64 0..2
    word_start: torch.Tensor     # int64 0/1


@dataclass
class States:
    """The language model's output for a chunk."""
    memory: torch.Tensor         # (B, 1 + W + H, d)
    keys: torch.Tensor           # (B, W, d) what the pointer compares with
    padding: torch.Tensor        # (B, W) bool, True where there is no unit


class _HeadLayer(nn.Module):
    def __init__(self, config: OrchestratorConfig):
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.qkv = nn.Linear(d, 3 * d)
        self.self_out = nn.Linear(d, d)
        self.query = nn.Linear(d, d)
        self.memory = nn.Linear(d, 2 * d)
        self.cross_out = nn.Linear(d, d)
        self.expand = nn.Linear(d, config.head_feed_forward)
        self.contract = nn.Linear(config.head_feed_forward, d)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)                # (B, H, T, D)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (self._split(y) for y in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.self_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        k, v = (self._split(y) for y in self.memory(memory).chunk(2, -1))
        q = self._split(self.query(self.norms[1](x)))
        x = x + self.cross_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norms[2](x)), approximate="tanh"))


class Orchestrator(nn.Module):
    def __init__(self, config: OrchestratorConfig = OrchestratorConfig()):
        super().__init__()
        self.config = config
        d = config.width
        self.unit = nn.Embedding(NUM_UNITS, d, padding_idx=PAD)
        self.stress = nn.Embedding(3, d)
        self.word_start = nn.Embedding(2, d)
        self.place = nn.Parameter(torch.randn(config.window, d) * 0.02)          # distance to the pointer
        self.voice = nn.Embedding(config.voices + 1, d)
        self.history = nn.Linear(2 * config.mel_bins, d)
        self.llm = Qwen3Model(Qwen3Config(
            vocab_size=1, hidden_size=d, intermediate_size=config.feed_forward, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, num_key_value_heads=config.kv_heads or config.heads,
            head_dim=d // config.heads, max_position_embeddings=1 + config.window + config.history_tokens, use_cache=False))
        slots = config.slots + config.lookahead
        self.noisy = nn.Linear(config.mel_bins, d)
        self.slot = nn.Parameter(torch.randn(slots, d) * 0.02)
        self.time = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.layers = nn.ModuleList(_HeadLayer(config) for _ in range(config.head_layers))
        self.final_norm = nn.LayerNorm(d)
        self.pointer_query = nn.Linear(d, d)
        self.pointer_key = nn.Linear(d, d)
        self.offset = nn.Linear(d, 1)

    def encode(self, window: TranscriptWindow, history: torch.Tensor, voice: torch.Tensor, *,
               masked: bool = False) -> States:
        """Run the language model.

        ``history``: normalised mel of the last ``history_tokens`` tokens, (B, H, 2 * mel_bins);
        ``voice``: int64 (B,). ``masked``: give the language model its whole mask, as a GPU wants that must not wait: it
        looks at the values of a shorter one.
        """
        text = self.unit(window.unit) + self.stress(window.stress) + self.word_start(window.word_start) + self.place
        padding = window.unit == PAD
        x = torch.cat([self.voice(voice)[:, None], text, self.history(history)], 1)
        present = torch.cat([torch.ones_like(padding[:, :1]), ~padding,
                             torch.ones(history.shape[:2], dtype=torch.bool, device=x.device)], 1)
        mask = {"full_attention": _causal_mask(present)} if masked else present.long()
        memory = self.llm(inputs_embeds=x, attention_mask=mask).last_hidden_state
        keys = self.pointer_key(memory[:, 1: 1 + self.config.window] + text.to(memory.dtype))
        return States(memory, keys, padding)

    def align(self, states: States, noisy: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The condition head and pointer, in a denoising step.

        ``noisy``: normalised mel of the chunk at flow time ``t`` (B,), (B, slots, mel_bins). Returns logits over
        the window's units, float32 (B, slots + lookahead, W), -inf where there is no unit, and the offset in
        [0, 1]: how far each half-frame is through its unit, (B, slots + lookahead).
        """
        x = F.pad(self.noisy(noisy), (0, 0, 0, self.config.lookahead)) + self.slot
        x = x + self.time(timestep_features(t, self.config.width).to(x.dtype))[:, None]
        absent = torch.cat([torch.zeros_like(states.padding[:, :1]), states.padding,
                            torch.zeros_like(states.memory[:, 1 + self.config.window:, 0], dtype=torch.bool)], 1)
        mask = torch.zeros(absent.shape, dtype=x.dtype, device=x.device).masked_fill(absent, float("-inf"))[:, None, None]
        for layer in self.layers:
            x = layer(x, states.memory.to(x.dtype), mask)
        x = self.final_norm(x)
        logits = self.pointer_query(x) @ states.keys.to(x.dtype).transpose(1, 2) * self.config.width ** -0.5
        logits = logits.float().masked_fill(states.padding[:, None], float("-inf"))
        return logits, torch.sigmoid(self.offset(x)[..., 0].float())


def _causal_mask(present: torch.Tensor) -> torch.Tensor:
    """What each place of a sequence sees, bool (B, 1, T, T): those up to it that are present (B, T)."""
    causal = torch.ones(2 * present.shape[1:], dtype=torch.bool, device=present.device).tril()
    return (causal & present[:, None])[:, None]


def pointer_position(logits: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Confidence-weighted position plus learned offset, clamped to the window (paper, eq. of the pointer).

    ``logits`` (..., W), ``offset`` (...): returns positions in units of the window, float32 (...).
    """
    places = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)
    expected = (logits.softmax(-1) * places).sum(-1)
    return (expected + offset).clamp(0, logits.shape[-1])
