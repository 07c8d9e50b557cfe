"""The orchestrator's native calls against its torch definition, at the sizes of ``mini``: once a chunk each.

``test_language_model`` is transformers' Qwen3 alone; the others are all of what a chunk asks of the orchestrator.
"""
from __future__ import annotations

import copy

import pytest
import torch

from streamchar_rt.orchestrator.condition import ConditionEncoder
from streamchar_rt.orchestrator.model import Orchestrator
from streamchar_rt.orchestrator.packed import PackedOrchestrator, PlainOrchestrator, pack_language_model
from streamchar_rt.orchestrator.units import FIRST_PHONE, NUM_UNITS

from .in_turns import take_turns, threads_set

on_threads = pytest.mark.parametrize("threads", [1, 2])
in_storage = pytest.mark.parametrize("storage", ["fp32"], ids=["cpu-fp32"])


def compare(benchmark, ways, threads):
    """``ways``: calls that give a tensor."""
    with threads_set(threads), torch.inference_mode():
        got, wanted = ways["native"](), ways["torch"]()
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5
        turns = take_turns(ways)
        benchmark(ways["native"])
    benchmark.extra_info.update(turns.rows(), threads=threads)


@on_threads
@in_storage
def test_language_model(benchmark, storage, threads):
    net = Orchestrator().eval().requires_grad_(False)
    x = torch.randn(1, 1 + net.config.window + net.config.history_tokens, net.config.width)
    packed, rope = pack_language_model(copy.deepcopy(net.llm), x.shape[1])
    mask = torch.ones(x.shape[:2], dtype=torch.int64)
    compare(benchmark, {"native": lambda: packed(x, rope),
                        "torch": lambda: net.llm(inputs_embeds=x, attention_mask=mask).last_hidden_state}, threads)


@on_threads
@in_storage
@pytest.mark.parametrize("part", ["read", "align", "conditions"])
def test_orchestrator(benchmark, part, storage, threads):
    nets = [net.eval().requires_grad_(False) for net in (Orchestrator(), ConditionEncoder())]
    config = nets[0].config
    plain, packed = PlainOrchestrator(*copy.deepcopy(nets)), PackedOrchestrator(*nets)
    bounds = (FIRST_PHONE, NUM_UNITS), (0, 3), (0, 2), (0, 5)
    draw = lambda *shape: torch.stack([torch.randint(*bound, shape) for bound in bounds], -1)
    units = draw(1, config.window)[..., :3].contiguous()
    history = torch.randn(1, config.history_tokens, 2 * config.mel_bins)
    noisy, rows, voices = torch.randn(1, config.slots, config.mel_bins), draw(1, 48), torch.tensor([1])
    with torch.inference_mode():
        states = plain.read(units, history, voices)
    call = {"read": lambda net: net.read(units, history, voices).memory,
            "align": lambda net: net.align(states, noisy, 0.0),
            "conditions": lambda net: net.conditions(rows, voices)[1]}[part]
    compare(benchmark, {"native": lambda: call(packed), "torch": lambda: call(plain)}, threads)
