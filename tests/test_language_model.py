"""The language model's layers as one native call, against transformers' Qwen3 in float64."""
from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError, UnsupportedError
from streamchar_rt.orchestrator.packed import pack_language_model

from .native_support import fresh_generator, isa, native, relative_error  # noqa: F401

# width, layers, heads, key heads, head size, feed-forward, tokens, batch
SHAPES = [(192, 3, 3, 3, 64, 512, 65, 1), (100, 2, 3, 1, 64, 37, 131, 2), (64, 1, 4, 2, 64, 1, 1, 3),
          (130, 2, 4, 2, 128, 200, 48, 2), (16, 0, 1, 1, 64, 8, 7, 2)]


def qwen(width, layers, heads, kv_heads, head_dim, feed_forward, generator) -> Qwen3Model:
    """Random weights, norms included."""
    model = Qwen3Model(Qwen3Config(
        vocab_size=1, hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=256,
        use_cache=False)).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        spread = 0.3 if "norm" in name else 1.5 / weight.shape[-1] ** 0.5
        weight.copy_(torch.randn(weight.shape, generator=generator) * spread + ("norm" in name))
    return model


def random_present(batch: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """The first token is there, so that every row sees one; any others may be absent."""
    present = torch.rand(batch, tokens, generator=generator) < torch.rand(batch, 1, generator=generator)
    present[:, 0] = True
    return present


def truth(model: Qwen3Model, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    seen = torch.ones(2 * x.shape[1:2], dtype=torch.bool).tril() & present[:, None]
    out = model.double()(inputs_embeds=x.double(), attention_mask={"full_attention": seen[:, None]}).last_hidden_state
    model.float()
    return out * present[..., None]


@pytest.fixture
def threads():
    before = native.threads()
    yield ops.set_num_threads
    ops.set_num_threads(before)


@pytest.mark.parametrize("width,layers,heads,kv_heads,head_dim,feed_forward,tokens,batch", SHAPES)
def test_the_states_of_transformers_model(isa, threads, width, layers, heads, kv_heads, head_dim, feed_forward, tokens, batch):
    generator = fresh_generator()
    model = qwen(width, layers, heads, kv_heads, head_dim, feed_forward, generator)
    x, present = torch.randn(batch, tokens, width, generator=generator), random_present(batch, tokens, generator)
    everywhere = torch.ones_like(present)
    wanted, whole = truth(model, x, present), truth(model, x, everywhere)
    packed, rope = pack_language_model(model, tokens)
    got = packed(x, rope, present)
    assert relative_error(got, wanted) < 1e-5 and (got - wanted).abs().max() < 1e-4
    assert not got[~present].any()
    assert relative_error(packed(x, rope), whole) < 1e-5 and torch.equal(packed(x, rope), packed(x, rope, everywhere))
    for count in (1, 2, 5):
        threads(count)
        assert torch.equal(packed(x, rope, present), got)
    for i in range(batch):
        assert torch.equal(packed(x[i:i + 1].clone(), rope, present[i:i + 1]), got[i:i + 1])
    assert packed(x, rope, present, out=x) is x and torch.equal(x, got)


def test_tokens_that_are_absent_are_never_read():
    generator = fresh_generator()
    packed, rope = pack_language_model(qwen(64, 2, 1, 1, 64, 50, generator), 70)
    x, present = torch.randn(2, 70, 64, generator=generator), random_present(2, 70, generator)
    wanted = packed(x, rope, present)
    x[~present] = float("nan")
    assert torch.equal(packed(x, rope, present), wanted)
    none = torch.zeros_like(present)
    none[1, 33] = True
    alone = packed(x[1:, 33:34].nan_to_num(), rope[33:34].contiguous())
    got = packed(x.nan_to_num(), rope, none)
    assert torch.equal(got[1:, 33:34], alone) and not got[0].any()
    assert not packed(x, rope, torch.zeros_like(none)).any()


def test_a_token_does_not_see_what_comes_later():
    generator = fresh_generator()
    packed, rope = pack_language_model(qwen(64, 2, 2, 1, 64, 50, generator), 140)
    x = torch.randn(1, 140, 64, generator=generator)
    whole = packed(x, rope)
    for tokens in (1, 5, 47, 48, 49, 64, 65, 128, 139):
        assert torch.equal(packed(x[:, :tokens].contiguous(), rope[:tokens].contiguous()), whole[:, :tokens])


@pytest.mark.parametrize("storage,limit", [("bf16", 2e-2), ("int8", 6e-2)])
def test_narrow_weights(storage, limit):
    generator = fresh_generator()
    vector = lambda count: torch.rand(count, generator=generator) + 0.5
    linear = lambda inputs, outputs, kind: ops.PackedLinear(weights[inputs, outputs], storage=kind)
    weights = {(n, m): torch.randn(m, n, generator=generator) / n ** 0.5 for n, m in ((96, 384), (128, 96), (96, 300), (150, 96))}
    norms = dict(input_norm=vector(96), hidden_norm=vector(96), q_norm=vector(64), k_norm=vector(64))
    x, rope = torch.randn(2, 50, 96, generator=generator), torch.randn(50, 32, 2, generator=generator)
    exact, narrow = (ops.LanguageModel(
        [ops.DecoderLayer(linear(96, 384, kind), linear(128, 96, kind), linear(96, 300, kind), linear(150, 96, kind), **norms)],
        norms["input_norm"], heads=2, kv_heads=2, head_dim=64)(x, rope) for kind in ("fp32", storage))
    assert relative_error(narrow, exact) < limit


def test_threads_may_run_a_model_at_once():
    generator = fresh_generator()
    packed, rope = pack_language_model(qwen(64, 2, 2, 1, 64, 50, generator), 60)
    cases = [torch.randn(batch, 60, 64, generator=generator) for batch in (1, 2, 3, 1)]
    wanted, wrong = [packed(x, rope) for x in cases], []

    def work(x, result):
        wrong.extend(1 for _ in range(30) if not torch.equal(packed(x, rope), result))

    running = [threading.Thread(target=work, args=case) for case in zip(cases, wanted)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


def test_packing_takes_the_layers_away():
    model = qwen(64, 1, 1, 1, 64, 8, fresh_generator())
    packed, _ = pack_language_model(model, 4)
    assert not [m for m in model.modules() if isinstance(m, nn.Linear)] and packed.nbytes > 4 * 64 * (4 * 64 + 3 * 8)


def test_bad_models_and_calls_are_typed_errors():
    generator = fresh_generator()
    packed, rope = pack_language_model(qwen(64, 1, 2, 1, 64, 8, generator), 4)
    x, present, (layer,) = torch.randn(2, 4, 64), torch.ones(2, 4, dtype=torch.bool), packed.layers
    make = lambda layers=(layer,), norm=torch.ones(64), heads=2, kv_heads=1, head_dim=64: ops.LanguageModel(
        list(layers), norm, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    other = lambda **parts: ops.DecoderLayer(**{**vars(layer), **parts})
    for wrong in (
        lambda: make(heads=3), lambda: make(kv_heads=2), lambda: make(norm=torch.ones(63)), lambda: make(kv_heads=0),
        lambda: make([other(out=layer.qkv)]), lambda: make([other(down=layer.gate_up)]), lambda: make([other(qkv=layer.out)]),
        lambda: make([other(q_norm=torch.ones(63))]), lambda: make([other(hidden_norm=torch.ones(1, 64))]),
        lambda: packed(x[0], rope), lambda: packed(x.double(), rope), lambda: packed(x[:, :3], rope),
        lambda: packed(x, rope[:3]), lambda: packed(x, rope, present.int()), lambda: packed(x, rope, present[:1]),
        lambda: packed(x, rope, out=x[:1]), lambda: packed(x.requires_grad_(), rope),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(UnsupportedError):
        make(head_dim=32)
