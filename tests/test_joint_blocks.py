"""The transformer's blocks as one native call: the same bytes as the ops one by one, and the torch blocks' values."""
import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.denoiser.dit import Block, DiTConfig
from streamchar_rt.errors import ConfigError

HEADS, WIDTH, DEPTH = 2, 128, 3
CONFIG = DiTConfig(width=WIDTH, depth=DEPTH, heads=HEADS, feed_forward=176, audio_feed_forward=80)
KINDS = ("video", "audio")
LAYERS = ("qkv", "out", "expand", "contract")
DISTANCES = {"sink": 21.0, "motion": 16.0}


@pytest.fixture
def plain(seeded) -> list[Block]:
    """Random blocks whose tables and norms matter."""
    made = [Block(CONFIG) for _ in range(DEPTH)]
    for block in made:
        for stream in (block.video, block.audio):
            torch.nn.init.normal_(stream.table, std=0.3)
            torch.nn.init.normal_(stream.q_norm, 1.0, 0.2)
            torch.nn.init.normal_(stream.k_norm, 1.0, 0.2)
        block.requires_grad_(False)
    return made


def halves(block: Block, storage: str) -> list[ops.JointHalf]:
    return [ops.JointHalf(**{name: ops.PackedLinear.pack(getattr(stream, name), storage) for name in LAYERS},
                          table=stream.table, q_norm=stream.q_norm, k_norm=stream.k_norm)
            for stream in (block.video, block.audio)]


def rope_of(tokens: int) -> ops.Rope:
    freqs, axes = ops.rope_frequencies(pairs=(16, 8, 8))
    return ops.Rope(torch.rand(tokens, 3) * 20, freqs, axes)


def cache_of(dtype=torch.float32, kernels="native") -> ops.ContextCache:
    return ops.ContextCache(layers=DEPTH, heads=HEADS, head_dim=WIDTH // HEADS, capacity={"sink": 96, "motion": 160},
                            dtype=dtype, kernels=kernels)


def fill(caches, segment: str, rows: int) -> None:
    """The same random rows for all."""
    rope = rope_of(rows)
    norm = ops.QkNorm(*(torch.ones(1, WIDTH // HEADS),) * 2, bounds=(0, rows))
    for layer in range(DEPTH):
        k, v = torch.randn(2, rows, HEADS, WIDTH // HEADS)
        for cache in caches:
            ops.append(cache, layer, segment, k, v, norm=norm, rope=rope)
    for cache in caches:
        cache.commit(segment)


def one_by_one(packed, plain, tokens, modulation, caches, rope, segments, store):
    """The same with an op call for each layer."""
    rows = [x.shape[1] for x in tokens]
    tokens = [x.clone() for x in tokens]
    for layer, (pair, block) in enumerate(zip(packed, plain)):
        streams = (block.video, block.audio)
        vectors = [(modulation + stream.table).unbind(-2) for stream in streams]
        projected = torch.cat([half.qkv(x, modulate=m[:2]) for half, x, m in zip(pair, tokens, vectors)], 1)
        q, k, v = projected.unflatten(-1, (3, HEADS, -1)).unbind(2)
        norm = ops.QkNorm(*(torch.stack([getattr(s, name) for s in streams]) for name in ("q_norm", "k_norm")),
                          bounds=(0, rows[0], sum(rows)))
        mixed = torch.stack([
            ops.attend(cache, layer, q[i], k[i], v[i], norm=norm, rope=rope, distances=DISTANCES, segments=segments,
                       store=store) for i, cache in enumerate(caches)]).flatten(2)
        for i, (half, part, m) in enumerate(zip(pair, mixed.split(rows, 1), vectors)):
            x = half.out(part, gate=m[2], residual=tokens[i])
            y = half.expand(x, modulate=m[3:5], activation="gelu_tanh")
            tokens[i] = half.contract(y, gate=m[5], residual=x)
    return tokens


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("rows,batch", [((70, 16), 1), ((131, 5), 3), ((64, 0), 2), ((0, 33), 1)])
@pytest.mark.parametrize("segments,store", [(None, None), (("sink",), "motion"), ((), "motion")])
def test_the_same_bytes_as_op_by_op(plain, rng, storage, rows, batch, segments, store):
    packed = [halves(block, storage) for block in plain]
    blocks, rope = ops.JointBlocks([tuple(pair) for pair in packed], HEADS), rope_of(sum(rows))
    dtype = torch.int8 if storage == "int8" else torch.float32
    pairs = [(cache_of(dtype), cache_of(dtype)) for _ in range(batch)]
    for i, pair in enumerate(pairs):
        fill(pair, "sink", int(rng.integers(1, 97)))
        if i != 1:
            fill(pair, "motion", int(rng.integers(1, 161)))
    one, other = ([pair[i] for pair in pairs] for i in (0, 1))
    tokens = [torch.randn(batch, count, WIDTH) for count in rows]
    modulation = 0.5 * torch.randn(int(rng.choice([1, batch])), 1, 6, WIDTH)
    want = one_by_one(packed, plain, tokens, modulation, one, rope, segments, store)
    for threads in (1, 3):
        with ops.threads(threads):
            got = blocks(*(x.clone() for x in tokens), modulation, other, rope=rope, distances=DISTANCES,
                         segments=segments, store=store)
        assert all(torch.equal(a, b) for a, b in zip(got, want))
    for a, b in pairs:
        assert a.staged("motion") == b.staged("motion") == (store == "motion")
        if store:
            for cache in (a, b):
                cache.commit("motion")
            newest = [cache.state_dict()["motion"][-1] for cache in (a, b)]
            assert torch.equal(newest[0]["key"], newest[1]["key"]) and torch.equal(newest[0]["value"], newest[1]["value"])


@pytest.mark.parametrize("storage,limit", [("fp32", 1e-5), ("bf16", 2e-2), ("int8", 6e-2)])
def test_the_values_of_the_torch_blocks_in_float64(plain, rng, storage, limit):
    """With no cached context, where torch's own attention does for a reference."""
    rows, batch = (int(rng.integers(1, 120)), int(rng.integers(1, 40))), 2
    rope = rope_of(sum(rows))
    blocks = ops.JointBlocks([tuple(halves(block, storage)) for block in plain], HEADS)
    tokens = [torch.randn(batch, count, WIDTH) for count in rows]
    modulation = 0.5 * torch.randn(batch, 1, 6, WIDTH)
    got = blocks(*(x.clone() for x in tokens), modulation, [cache_of() for _ in range(batch)], rope=rope, distances={})
    table = rope.table_as(torch.float64)

    def turned(x, weights):
        y = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        y = y * torch.cat([w.double().expand(n, -1) for w, n in zip(weights, rows)])[:, None]
        even, odd = y[..., 0::2], y[..., 1::2]
        cos, sin = table[:, None, :, 0], table[:, None, :, 1]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def attend(layer, block, q, k, v):
        q, k = (turned(x, [getattr(s, name) for s in (block.video, block.audio)]) for x, name in ((q, "q_norm"), (k, "k_norm")))
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    want = tuple(x.double() for x in tokens)
    for layer, block in enumerate(plain):
        want = block.double()(layer, want, modulation.double(), attend)
    for a, b in zip(got, want):
        assert (a.double() - b).norm() <= limit * b.norm()


def test_a_stream_gets_the_same_bytes_alone_and_in_company(plain, rng):
    blocks, rope = ops.JointBlocks([tuple(halves(block, "int8")) for block in plain], HEADS), rope_of(90)
    caches = [cache_of(torch.int8) for _ in range(4)]
    for cache in caches:
        fill([cache], "motion", int(rng.integers(1, 161)))
    tokens, modulation = [torch.randn(4, count, WIDTH) for count in (80, 10)], torch.randn(4, 1, 6, WIDTH)
    run = lambda tokens, modulation, caches: blocks(
        *(x.clone() for x in tokens), modulation, caches, rope=rope, distances=DISTANCES)
    together = run(tokens, modulation, caches)
    for i in range(4):
        alone = run([x[i:i + 1] for x in tokens], modulation[i:i + 1], caches[i:i + 1])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together))


def test_what_does_not_fit_is_refused_and_changes_nothing(plain):
    blocks, rope = ops.JointBlocks([tuple(halves(block, "fp32")) for block in plain], HEADS), rope_of(40)
    video, audio, modulation, cache = torch.randn(1, 30, WIDTH), torch.randn(1, 10, WIDTH), torch.randn(1, 1, 6, WIDTH), cache_of()
    turned = ops.ContextCache(layers=DEPTH, heads=HEADS, head_dim=WIDTH // HEADS, capacity={"motion": 160, "sink": 96},
                              kernels="native")
    before = video.clone(), audio.clone()
    call = lambda v=video, a=audio, m=modulation, c=None, r=rope, **more: blocks(
        v, a, m, c or [cache], rope=r, distances=DISTANCES, **more)
    for wrong in (
        {"v": video.double()}, {"v": video[..., :64]}, {"a": audio.transpose(1, 2)}, {"a": audio[:, :9]},
        {"m": modulation[..., :5, :]}, {"m": modulation.expand(1, 1, 6, WIDTH).half()}, {"r": rope_of(41)},
        {"c": [cache, cache]}, {"c": [cache_of(kernels="reference")]}, {"segments": ("nowhere",)}, {"store": "nowhere"},
        {"v": torch.randn(2, 30, WIDTH), "a": torch.randn(2, 10, WIDTH), "c": [cache, cache]},
        {"v": torch.randn(2, 30, WIDTH), "a": torch.randn(2, 10, WIDTH), "c": [cache, turned], "store": "sink"},
        {"v": video.clone().requires_grad_()},
    ):
        with pytest.raises(ConfigError) as error:
            call(**wrong)
        assert error.value.hint
    assert torch.equal(video, before[0]) and torch.equal(audio, before[1]) and not cache.staged("motion")
    with pytest.raises(ConfigError):
        ops.JointBlocks([], HEADS)
    with pytest.raises(ConfigError):
        ops.JointBlocks([tuple(halves(plain[0], "fp32"))], 3)
    pair = halves(plain[0], "fp32")
    with pytest.raises(ConfigError):
        ops.JointBlocks([(pair[0], ops.JointHalf(**{**vars(pair[1]), "out": pair[1].qkv}))], HEADS)
    with pytest.raises(ConfigError):
        ops.JointBlocks([(pair[0], ops.JointHalf(**{**vars(pair[1]), "table": torch.zeros(5, WIDTH)}))], HEADS)
