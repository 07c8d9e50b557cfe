"""The context cache: keys and values of what the DiT attends to beside the current chunk."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, StateError, UnsupportedError
from ._device_store import DeviceStore
from ._native import cpu_reason_against, cuda_reason_against, native
from ._native_store import NativeStore
from ._reference_store import ReferenceStore
from ._spec import CacheSpec

State = dict[str, list[dict[str, Any]]]


class Snapshot(Protocol):
    """Committed content of a cache at one moment. Shares memory with the cache until either moves on."""

    @property
    def spec(self) -> CacheSpec: ...
    @property
    def nbytes(self) -> int: ...


class ContextCache:
    """Per layer, keys and values of a few named segments.

    Pinned segments (``reference``, ``sink``) hold one chunk. The ring (``motion``) holds the newest
    ``chunks`` ones for attention, and ``history`` older ones so that ``rewind`` can go back. New rows go to
    a segment's staging first and become visible on ``commit``, which moves no bytes. Committed rows are
    never rewritten, so snapshots and forks share them.

    One cache belongs to one session: calls on the same cache must not overlap; different caches, also forks
    of one another, may be used from different threads.

    Args:
        capacity: tokens per segment (for the ring: per chunk), in attention order.
        ring: the segment that is a ring, or None.
        dtype: what keys and values are stored in: float32, bfloat16, or on a CPU int8, with a step for each key and
            for each channel of 64 values; queries and weights are then rounded as well. See ``int8_pays``.
        kernels: "native", "reference" (plain torch), or "auto": native where it serves this device and
            dtype, unless the environment has STREAMCHAR_KERNELS=reference.

    Raises:
        ConfigError: on sizes that make no sense.
        UnsupportedError: with ``kernels="native"`` where no native kernel fits.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        capacity: Mapping[str, int],
        ring: str | None = "motion",
        chunks: int = 1,
        history: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        kernels: Literal["auto", "native", "reference"] = "auto",
    ) -> None:
        self.spec = CacheSpec(
            layers, heads, head_dim, dict(capacity), ring, chunks, history, dtype, torch.device(device)
        )
        self._store = _make_store(self.spec, kernels)

    @property
    def kernels(self) -> Literal["native", "reference"]:
        return "reference" if type(self._store) is ReferenceStore else "native"

    @staticmethod
    def int8_pays() -> bool:
        """Whether attention over int8 storage is faster here than over float32: with VNNI and no AMX."""
        return native is not None and native.isa() in ("avx_vnni", "avx512_vnni", "avx512_bf16")

    def commit(self, segment: str, chunk: int | None = None) -> None:
        """Makes the segment's staging visible as ``chunk`` (default: one after the last).

        Raises:
            StateError: if a layer has not been appended, token counts differ, or ``chunk`` does not rise.
        """
        self.spec.check_segment(segment)
        self._store.commit(segment, chunk)

    def drop(self, segment: str) -> None:
        """Forgets the segment's staging; nothing happens where there is none."""
        self.spec.check_segment(segment)
        self._store.drop(segment)

    def rewind(self, chunk: int) -> None:
        """Puts the ring back to what it was right after ``commit(chunk)``; also drops its staging.

        A chunk before the first commit empties the ring.

        Raises:
            StateError: if that state needs a chunk that has been discarded; nothing has changed then.
        """
        if self.spec.ring is None:
            raise StateError("this cache has no ring to rewind", hint="use snapshot() and restore()")
        self._store.rewind(self.spec.ring, int(chunk))

    def clear(self, segment: str | None = None) -> None:
        """Empties one segment, or all, staging included."""
        for name in self.spec.names if segment is None else (segment,):
            self.spec.check_segment(name)
            self._store.clear(name)

    def snapshot(self) -> Snapshot:
        """The committed content, without staging. Copies no rows."""
        return self._store.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to ``snapshot``, which stays valid; staging is dropped.

        Raises:
            ConfigError: if the snapshot is of a cache of another shape or kind.
        """
        same_kind = type(snapshot) is type(self._store.snapshot())
        if not same_kind or snapshot.spec != self.spec:
            raise ConfigError("the snapshot is of another kind of cache", hint="restore into a cache of equal shape")
        self._store.restore(snapshot)

    def fork(self) -> ContextCache:
        """An independent cache with the same committed content. Copies no rows."""
        child = object.__new__(ContextCache)
        child.spec = self.spec
        child._store = self._store.fork()
        return child

    def state_dict(self) -> State:
        """Copies of all committed chunks: {segment: [{chunk, key (L,T,H,D), value (L,T,H,D)}, oldest first]}."""
        return {
            name: [
                dict(zip(("chunk", "key", "value"), self._store.export_chunk(name, i)))
                for i in range(self._store.kept(name))
            ]
            for name in self.spec.names
        }

    def load_state_dict(self, state: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Replaces the content by what ``state_dict`` of a cache of equal shape gave.

        Raises:
            ConfigError: if segments or shapes do not fit; the cache is unchanged then.
        """
        spec = self.spec
        if set(state) != set(spec.names):
            raise ConfigError(f"state has segments {sorted(state)}", hint=f"expected {sorted(spec.names)}")
        for name, saved in state.items():
            if len(saved) > spec.retained_chunks(name):
                raise ConfigError(f"state has {len(saved)} chunks of {name!r}", hint="make a cache with more chunks")
            for item in saved:
                key, value = item["key"], item["value"]
                fits = key.ndim == 4 and (key.shape[0], *key.shape[2:]) == (spec.layers, spec.heads, spec.head_dim)
                if not fits or key.shape != value.shape or not 0 < key.shape[1] <= spec.capacity[name]:
                    raise ConfigError(f"state of {name!r} has shape {tuple(key.shape)}", hint="use an equal cache")
        for name, saved in state.items():
            self._store.clear(name)
            for item in saved:
                self._store.import_chunk(name, int(item["chunk"]), item["key"], item["value"])

    def rows(self, segment: str) -> int:
        """Tokens of the segment that attention sees."""
        self.spec.check_segment(segment)
        return self._store.rows(segment)

    def chunks(self, segment: str) -> tuple[int, ...]:
        """Labels of the segment's chunks that attention sees, oldest first."""
        self.spec.check_segment(segment)
        return self._store.chunks(segment)

    def staged(self, segment: str) -> bool:
        """Whether anything waits in the segment's staging."""
        self.spec.check_segment(segment)
        return self._store.staged(segment)

    def generation(self, segment: str) -> int:
        """A number that rises whenever what attention sees of the segment changes."""
        self.spec.check_segment(segment)
        return self._store.generation(segment)

    @property
    def nbytes(self) -> int:
        """Bytes of key and value memory held now, rows shared with forks and snapshots included."""
        return self._store.nbytes()

    def memory_plan(self) -> dict[str, int]:
        """Bytes of one session in steady state, per segment and in ``total``.

        A pinned segment needs one slot; the ring needs chunks + history, and one more for staging.
        Re-appending a pinned segment that is live takes a second slot until the commit.
        """
        plan = {
            name: self._store.slot_bytes(name)
            * (self.spec.retained_chunks(name) + (name == self.spec.ring))
            for name in self.spec.names
        }
        return plan | {"total": sum(plan.values())}


def _make_store(spec: CacheSpec, kernels: str) -> NativeStore | DeviceStore | ReferenceStore:
    if kernels not in ("auto", "native", "reference"):
        raise ConfigError(f"unknown kernels {kernels!r}", hint="auto, native or reference")
    if kernels == "auto" and os.environ.get("STREAMCHAR_KERNELS") == "reference":
        kernels = "reference"
    if kernels == "reference":
        return ReferenceStore(spec)
    why_not = f"nothing for {spec.device.type}"
    if spec.device.type == "cpu":
        why_not = cpu_reason_against(spec.dtype, spec.head_dim)
    elif spec.device.type == "cuda":
        why_not = cuda_reason_against(spec.dtype, spec.head_dim)
    if why_not is None:
        return NativeStore(spec) if spec.device.type == "cpu" else DeviceStore(spec)
    if kernels == "native":
        raise UnsupportedError(f"no native kernel: {why_not}", hint='use kernels="reference"')
    return ReferenceStore(spec)
