"""The joint transformer's blocks as one native call, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native
from ._native_store import NativeStore
from ._spec import plan_reads
from .context_cache import ContextCache
from .packed_linear import PackedLinear
from .rope import Rope


@dataclass(frozen=True)
class JointHalf:
    """A block's part for one kind of tokens.

    Attributes:
        qkv, out, expand, contract: layers of width to 3 width, width to width, width to hidden, and back.
        table: (6, width), added to the modulation: shift, scale and gate of attention, then of the feed-forward.
        q_norm, k_norm: (head_dim,), RMSNorm weights of each head.
    """

    qkv: PackedLinear
    out: PackedLinear
    expand: PackedLinear
    contract: PackedLinear
    table: Tensor
    q_norm: Tensor
    k_norm: Tensor


class JointBlocks:
    """``x += gate * out(attention(qkv(x)))`` and ``x += gate * contract(gelu(expand(x)))`` of video and audio tokens, block
    after block, each after adaLN modulation; one attention over both kinds and the cached context.

    Layer norm has eps 1e-5, the norm of queries and keys 1e-6. A stream's result depends neither on the others in the
    call nor on the number of threads. Immutable; calls on different caches may run at once.

    Attributes:
        depth, width, heads, head_dim: sizes.
        nbytes: memory of the packed weights.
    """

    def __init__(self, blocks: Sequence[tuple[JointHalf, JointHalf]], heads: int) -> None:
        """``blocks``: (video, audio) of each layer.

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module, or where attention has no kernel for the head size.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the blocks with plain torch")
        if not blocks:
            raise ConfigError("no blocks", hint="one (video, audio) pair a layer")
        self.blocks, self.heads, self.depth = list(blocks), heads, len(blocks)
        self.width = blocks[0][0].qkv.in_features
        self.head_dim = self.width // heads
        if self.width % heads:
            raise ConfigError(f"a width of {self.width} is not {heads} heads", hint="the width is heads * head_dim")
        if not native.cpu_head_dim_supported(self.head_dim):
            raise UnsupportedError(f"head_dim {self.head_dim} is not 64 or 128", hint="run the blocks with plain torch")
        kept: list[Tensor] = []

        def half(given: JointHalf):
            vectors = [x.detach().to("cpu", torch.float32).contiguous() for x in (given.table, given.q_norm, given.k_norm)]
            wanted = [(6, self.width), (self.head_dim,), (self.head_dim,)]
            if [tuple(x.shape) for x in vectors] != wanted:
                raise ConfigError(f"table and norms are {[tuple(x.shape) for x in vectors]}", hint=f"{wanted}")
            kept.extend(vectors)
            layers = (given.qkv, given.out, given.expand, given.contract)
            return *(layer._packed for layer in layers), *(x.data_ptr() for x in vectors)

        try:
            self._native = native.JointBlocks(heads, self.head_dim, [(half(v), half(a)) for v, a in blocks])
        except ValueError as error:
            raise ConfigError(str(error), hint="see JointHalf") from None
        self.nbytes = sum(layer.nbytes for pair in blocks for h in pair for layer in (h.qkv, h.out, h.expand, h.contract))

    def __call__(self, video: Tensor, audio: Tensor, modulation: Tensor, caches: Sequence[ContextCache], *, rope: Rope,
                 distances: Mapping[str, float | Sequence[float]], segments: Sequence[str] | None = None,
                 store: str | None = None) -> tuple[Tensor, Tensor]:
        """Tokens after the last block, in place of the given ones.

        Args:
            video, audio: float32 (B, Tv, width) and (B, Ta, width), contiguous, on the CPU; either may have no tokens.
            modulation: float32 (B or 1, 1, 6, width).
            caches: one for each of the B streams, with native kernels.
            rope: of the Tv + Ta tokens.  distances, segments, store: as for ``attend``.

        Raises:
            ConfigError: on shapes, dtypes, segments or caches that do not fit; nothing is changed then.
        """
        batch, rows = len(caches), video.shape[1:2] + audio.shape[1:2]
        for name, x in (("video", video), ("audio", audio)):
            fits = x.ndim == 3 and x.shape[0] == batch and x.shape[2] == self.width
            if not fits or x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous():
                raise ConfigError(f"{name} is {tuple(x.shape)} {x.dtype} on {x.device}",
                                  hint=f"contiguous float32 ({batch}, tokens, {self.width}) on the CPU")
        if torch.is_grad_enabled() and any(x.requires_grad for x in (video, audio, modulation)):
            raise ConfigError("native blocks give no gradient", hint="use torch.inference_mode()")
        if modulation.shape not in ((batch, 1, 6, self.width), (1, 1, 6, self.width)) or not modulation.is_contiguous() \
                or modulation.dtype is not torch.float32 or not modulation.is_cpu:
            raise ConfigError(f"modulation is {tuple(modulation.shape)} {modulation.dtype}",
                              hint=f"contiguous float32 ({batch} or 1, 1, 6, {self.width})")
        if sum(rows) != rope.tokens or rope.head_dim != self.head_dim:
            raise ConfigError(f"rope is of {rope.tokens} tokens of {rope.head_dim}, there are {sum(rows)}",
                              hint=f"positions of all tokens, for a head_dim of {self.head_dim}")
        if any(cache.spec.names != caches[0].spec.names for cache in caches):
            raise ConfigError("the caches have other segments, or in another order", hint="caches of equal shape")
        reads, kept = [], []
        for cache in caches:
            listed, shifts = self._reads_of(cache, distances, segments, store, rope)
            reads.append(listed)
            kept.append(shifts)
        contexts = [cache._store._context for cache in caches]
        if len({id(context) for context in contexts}) < batch:
            raise ConfigError("the same cache twice", hint="one for each stream")
        self._native.run(
            contexts, reads, *rows, video.data_ptr(), audio.data_ptr(), modulation.data_ptr(),
            0 if len(modulation) == 1 else modulation.stride(0), rope.table.data_ptr(),
            None if store is None else caches[0]._store._index[store])
        return video, audio

    def _reads_of(self, cache, distances, segments, store, rope):
        """What the native call reads of a cache, and the tensors that must live as long as it."""
        spec = cache.spec
        if not isinstance(cache._store, NativeStore):
            raise ConfigError("a cache without native kernels", hint='ContextCache(kernels="native")')
        if (spec.layers, spec.heads, spec.head_dim) != (self.depth, self.heads, self.head_dim):
            raise ConfigError(f"the cache has {spec.layers} layers of {spec.heads} x {spec.head_dim}",
                              hint=f"{self.depth} layers of {self.heads} x {self.head_dim}")
        if store is not None:
            spec.check_segment(store)
            if not 0 < rope.tokens <= spec.capacity[store]:
                raise ConfigError(f"{rope.tokens} tokens do not fit segment {store!r}",
                                  hint=f"it holds 1 to {spec.capacity[store]}")
        live = {name: cache._store.live_count(name) for name in spec.names}
        reads = plan_reads(spec, live, distances, segments)
        shifts = [rope.shift(read.distance) for read in reads]
        listed = [(cache._store._index[r.segment], r.age, s.data_ptr() if r.distance else 0)
                  for r, s in zip(reads, shifts)]
        return listed, shifts

    def __repr__(self) -> str:
        return f"JointBlocks({self.depth} x {self.heads} x {self.head_dim}, {self.blocks[0][0].qkv.storage})"
