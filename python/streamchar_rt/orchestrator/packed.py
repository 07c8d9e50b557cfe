"""The orchestrator and the condition encoder at run time: in torch, and as native calls with packed weights."""
from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen3Model

from .. import ops
from ..timestep import timestep_features
from .condition import LONGEST, STRESSES, ConditionEncoder, alignment_features
from .model import Orchestrator, OrchestratorConfig, States, TranscriptWindow
from .units import NUM_UNITS, PAD

TIMES_KEPT = 64      # of a flow time's features, one for each that has been met


class PlainOrchestrator:
    """What a chunk asks of the nets, in torch."""

    def __init__(self, net: Orchestrator, condition: ConditionEncoder):
        self.net, self.condition = net, condition

    def read(self, units: torch.Tensor, history: torch.Tensor, voices: torch.Tensor) -> States:
        """The language model's states.

        ``units``: int64 (B, window, 3): unit, stress, word start; ``voices``: int64 (B,);
        ``history``: float32 (B, history_tokens, 2 * mel_bins).
        """
        return self.net.encode(TranscriptWindow(*units.unbind(-1)), history, voices)

    def align(self, states: States, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """The pointer's logits, float32 (B, slots + lookahead, window), for noisy mels (B, slots, mel_bins)."""
        return self.net.align(states, noisy, torch.tensor([t]))[0]

    def conditions(self, rows: torch.Tensor, voices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c_v and c_a, (B, ...), of int64 (B, past + slots + lookahead, 4): unit, stress, word start and elapsed."""
        return self.condition(alignment_features(*rows.unbind(-1)), voices)


class PackedOrchestrator:
    """``PlainOrchestrator`` with a native call for each, in float32. Takes the layers away from the nets: they are not
    kept twice. A stream's bytes depend neither on the others in a call nor on the number of threads.
    """

    def __init__(self, net: Orchestrator, condition: ConditionEncoder):
        config = net.config
        model, rope = pack_language_model(net.llm, 1 + config.window + config.history_tokens)
        net.llm = None
        self._reader = ops.TranscriptReader(
            model, rope, unit=net.unit.weight, stress=net.stress.weight, word_start=net.word_start.weight,
            voice=net.voice.weight, place=net.place, history=_taken(net, "history"), key=_taken(net, "pointer_key"),
            absent=PAD)
        self._head = _condition_head(net)
        self._encoder = _condition_encoder(condition)
        self._width, self._slot, self._time = config.width, net.slot, net.time
        self._bases: dict[float, torch.Tensor] = {}

    def read(self, units: torch.Tensor, history: torch.Tensor, voices: torch.Tensor) -> States:
        return States(*self._reader(units, history, voices))

    def align(self, states: States, noisy: torch.Tensor, t: float) -> torch.Tensor:
        return self._head(states.memory, states.keys, states.padding, noisy, self._base(t))[0]

    def conditions(self, rows: torch.Tensor, voices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._encoder(rows, voices)

    def _base(self, t: float) -> torch.Tensor:
        """What half-frames begin with at a flow time, made once for each."""
        base = self._bases.get(t)
        if base is None:
            if len(self._bases) >= TIMES_KEPT:
                self._bases.clear()
            base = self._bases[t] = self._slot + self._time(timestep_features(torch.tensor([t]), self._width))
        return base


def serves(config: OrchestratorConfig) -> bool:
    """Whether native calls can run an orchestrator of these sizes here, on the CPU."""
    reason = ops.native_attention_serves(torch.device("cpu"), torch.float32, config.width // config.heads)
    return reason is None and config.width % config.heads == 0


def pack_language_model(llm: Qwen3Model, tokens: int) -> tuple[ops.LanguageModel, torch.Tensor]:
    """The layers of transformers' model with packed weights, which are taken away from it, and the rotation of the
    first ``tokens`` places, float32 (tokens, head_dim / 2, 2)."""
    config = llm.config

    def layer(given: nn.Module) -> ops.DecoderLayer:
        attention, mlp = given.self_attn, given.mlp
        return ops.DecoderLayer(
            qkv=_joined(attention, "q_proj", "k_proj", "v_proj"), out=_taken(attention, "o_proj"),
            gate_up=_joined(mlp, "gate_proj", "up_proj"), down=_taken(mlp, "down_proj"),
            input_norm=given.input_layernorm.weight, hidden_norm=given.post_attention_layernorm.weight,
            q_norm=attention.q_norm.weight, k_norm=attention.k_norm.weight)

    model = ops.LanguageModel(
        [layer(given) for given in llm.layers], llm.norm.weight, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, eps=config.rms_norm_eps)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * llm.rotary_emb.inv_freq.double()
    return model, torch.stack((angles.cos(), angles.sin()), -1).float()


def _condition_head(net: Orchestrator) -> ops.ConditionHead:
    names = ("qkv", "self_out", "query", "memory", "cross_out", "expand", "contract")
    layers = [ops.ConditionLayer(**{name: _taken(layer, name) for name in names}, norms=list(layer.norms))
              for layer in net.layers]
    return ops.ConditionHead(layers, heads=net.config.heads, noisy=_taken(net, "noisy"), final_norm=net.final_norm,
                             pointer=_taken(net, "pointer_query"), offset=_taken(net, "offset"))


def _condition_encoder(net: ConditionEncoder) -> ops.ConditionEncoder:
    config, columns = net.config, net.embed.weight.T
    sizes = (NUM_UNITS, STRESSES, len(columns) - NUM_UNITS - STRESSES)
    unit, stress, times = columns.split(sizes)
    voice = net.voice.weight + net.embed.bias
    layers = []
    for i, layer in enumerate(net.convolutions):
        layers.append(ops.PackedLinear(layer.weight.permute(0, 2, 1).flatten(1), layer.bias, storage="fp32"))
        net.convolutions[i] = nn.Identity()
    net.embed = None
    return ops.ConditionEncoder(
        unit=unit, stress=stress, times=times, voice=voice, convolutions=layers, to_audio=_taken(net, "to_audio"),
        to_video=_taken(net, "to_video"), longest=LONGEST, audio=(config.past, config.audio_tokens),
        video=(config.video_begin, config.latents))


def _taken(owner: nn.Module, name: str) -> ops.PackedLinear:
    """A layer's packed weights; the owner keeps none."""
    packed = ops.PackedLinear.pack(getattr(owner, name), "fp32")
    setattr(owner, name, None)
    return packed


def _joined(owner: nn.Module, *names: str) -> ops.PackedLinear:
    """Likewise, of layers without bias and their outputs one after another."""
    packed = ops.PackedLinear(torch.cat([getattr(owner, name).weight for name in names]), storage="fp32")
    for name in names:
        setattr(owner, name, None)
    return packed
