"""The orchestrator's losses count what is known, and nothing else."""
from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from streamchar_rt.orchestrator.model import TranscriptWindow, pointer_position
from tools.train.batches import OrchestratorBatch
from tools.train.orchestrator import losses


def test_losses_are_means_over_what_is_known(seeded):
    count, slots, window = 5, 7, 11
    logits, offset = torch.randn(count, slots, window), 0.1 * torch.randn(count, slots)
    logits[:, :, 8:] = -torch.inf                            # units that are not there
    place = torch.randint(0, 8, (count, slots))
    place[torch.rand(count, slots) < 0.3] = -100
    position = place.float() + torch.rand(count, slots)
    none = torch.zeros(count, window, dtype=torch.long)
    batch = OrchestratorBatch(TranscriptWindow(none, none, none), torch.zeros(count, 3, 160),
                              torch.zeros(count, dtype=torch.long), torch.zeros(count, slots, 80), place, position)
    net = SimpleNamespace(encode=lambda *_, **__: None, align=lambda *_: (logits, offset))
    found = losses(net, batch, torch.zeros(count), torch.autocast("cpu", enabled=False))
    known = place >= 0
    told = pointer_position(logits.masked_fill(torch.isinf(logits), -30.0), offset)
    entropy = -logits.log_softmax(-1)[known].gather(1, place[known][:, None]).mean()
    pointer = F.smooth_l1_loss(told[known], position[known])
    assert torch.allclose(found["ce"], entropy) and torch.allclose(found["pointer"], pointer)
    assert torch.allclose(found["loss"], entropy + 0.1 * pointer)
    assert torch.allclose(found["accuracy"], (logits.argmax(-1) == place)[known].float().mean())
