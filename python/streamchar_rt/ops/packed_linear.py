"""Linear layers with weights packed once, for inference on a CPU."""
from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import float_rows, load_error, native

Storage = Literal["fp32", "bf16", "int8"]
Activation = Literal["gelu_tanh"]


class PackedLinear:
    """``y = activation(x W^T + b)`` in float32, with W kept as float32, bfloat16 or int8.

    fp32: rounding of float32 sums alone. bf16: relative error about 2e-3, at most 4e-3. int8: one scale per output and, at each call, one per row of x
    (largest magnitude = 127); about 1e-2 for normally distributed x and W, more where a row has outliers. A row
    with an infinity or NaN becomes NaN.

    A row of y depends on that row of x (and its modulation, gate and residual) alone: not on the other rows, their
    number or the number of threads. So sessions that share a call get the bytes they would get alone. On another
    instruction set they differ in rounding.

    Immutable; any number of threads may call it at once.

    Attributes:
        in_features, out_features: K and N.
        storage: "fp32", "bf16" or "int8".
        nbytes: memory held.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, storage: Storage = "bf16") -> None:
        """Packs a copy of ``weight`` (N, K) and ``bias`` (N,), of any floating dtype, on the CPU.

        Raises:
            ConfigError: on shapes that do not fit together, weights that are not finite, or another storage.
            UnsupportedError: without the native module.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="use torch.nn.functional.linear")
        if weight.ndim != 2 or 0 in weight.shape or (bias is not None and bias.shape != weight.shape[:1]):
            raise ConfigError(
                f"weight is {tuple(weight.shape)}, bias {None if bias is None else tuple(bias.shape)}",
                hint="weight (out_features, in_features), bias (out_features,) or None",
            )
        if storage not in get_args(Storage):
            raise ConfigError(f"no storage {storage!r}", hint='"fp32", "bf16" or "int8"')
        tensors = [None if t is None else t.detach().to("cpu", torch.float32).contiguous() for t in (weight, bias)]
        if not all(bool(torch.isfinite(t).all()) for t in tensors if t is not None):
            raise ConfigError("weight and bias must be finite", hint="the model is damaged")
        self.out_features, self.in_features = weight.shape
        self.storage = storage
        self._packed = native.PackedLinear(
            tensors[0].data_ptr(), 0 if tensors[1] is None else tensors[1].data_ptr(), *weight.shape, storage
        )
        self.nbytes: int = self._packed.nbytes

    @classmethod
    def pack(cls, layer: torch.nn.Linear, storage: Storage = "bf16") -> PackedLinear:
        """A packed copy of a torch layer."""
        return cls(layer.weight, layer.bias, storage=storage)

    @staticmethod
    def pays(storage: Storage = "bf16") -> bool:
        """Whether products of this storage are faster here than float32's: bf16 with AMX, int8 with VNNI.
        Elsewhere weights are widened, which saves memory and no time."""
        fast = {"fp32": (), "bf16": ("amx",), "int8": ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx")}
        if storage not in fast:
            raise ConfigError(f"no storage {storage!r}", hint='"fp32", "bf16" or "int8"')
        return native is not None and native.isa() in fast[storage]

    def __call__(
        self,
        x: Tensor,
        *,
        modulate: tuple[Tensor, Tensor] | None = None,
        eps: float = 1e-5,
        activation: Activation | None = None,
        gate: Tensor | None = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Applies the layer; with ``modulate`` after ``adaln_modulate``, with ``gate`` inside ``gated_residual``.

        Args:
            x: (..., K) on the CPU; float32 with contiguous rows is read in place.
            modulate: (shift, scale), float32 (B or 1, 1, K): x (B, T, K) is first layer-normed, scaled and shifted.
            eps: of the layer norm.
            activation: "gelu_tanh" for ``gelu(y, approximate="tanh")``.
            gate, residual: float32 (B or 1, 1, N) and (B, T, N), both or neither: the result is
                ``residual + gate * y``.
            out: where to write, float32 (..., N) contiguous; may be ``residual``, not x.

        Returns:
            float32 (..., N).

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or where a gradient is wanted.
        """
        if x.shape[-1:] != (self.in_features,) or not x.is_cpu or not x.is_floating_point():
            raise ConfigError(
                f"x is {tuple(x.shape)} {x.dtype} on {x.device}", hint=f"(..., {self.in_features}) floats on the CPU"
            )
        if activation not in (None, "gelu_tanh"):
            raise ConfigError(f"no activation {activation!r}", hint='"gelu_tanh" or None')
        shape = (*x.shape[:-1], self.out_features)
        if out is None:
            out = torch.empty(shape)
        elif out.shape != shape or out.dtype is not torch.float32 or not out.is_contiguous() or not out.is_cpu:
            raise ConfigError("out must be contiguous float32 of the result's shape", hint=f"torch.empty{shape}")
        per_batch, modulation, gating = 1, None, None
        if modulate is not None or gate is not None or residual is not None:
            per_batch, modulation, gating = self._around(x, modulate, eps, gate, residual)
        x = float_rows("x", x)
        if x.is_contiguous():
            count, stride = x.numel() // self.in_features, self.in_features
        else:
            x = x if x.ndim == 2 else x.reshape(-1, self.in_features)
            count, stride = x.shape[0], x.stride(0)
        self._packed.apply(
            count, x.data_ptr(), stride, out.data_ptr(), self.out_features,
            activation is not None, per_batch, modulation, gating,
        )
        return out

    def _around(self, x, modulate, eps, gate, residual):
        """Rows per batch, and what the native call takes for modulation and gating."""
        if x.ndim != 3 or (gate is None) != (residual is None):
            raise ConfigError(
                f"x is {tuple(x.shape)}, gate {'given' if gate is not None else 'missing'}",
                hint="x (batch, tokens, features), and gate with residual",
            )
        batch, tokens, _ = x.shape
        modulation = gating = None
        if modulate is not None:
            shift, scale = (_vector(name, v, batch, self.in_features) for name, v in zip(("shift", "scale"), modulate))
            modulation = (shift, scale, eps)
        if gate is not None:
            if residual.shape != (batch, tokens, self.out_features) or residual.dtype is not torch.float32 \
                    or not residual.is_cpu or not residual.is_contiguous():
                raise ConfigError(
                    f"residual is {tuple(residual.shape)} {residual.dtype}",
                    hint=f"contiguous float32 {(batch, tokens, self.out_features)} on the CPU",
                )
            gating = (_vector("gate", gate, batch, self.out_features), (residual.data_ptr(), self.out_features))
        return max(1, tokens), modulation, gating

    def weight(self) -> Tensor:
        """The weights as they are multiplied, float32 (N, K)."""
        weight = torch.empty(self.out_features, self.in_features)
        self._packed.read(weight.data_ptr())
        return weight

    def __repr__(self) -> str:
        return f"PackedLinear({self.in_features} -> {self.out_features}, {self.storage})"


def _vector(name: str, v: Tensor, batch: int, features: int) -> tuple[int, int]:
    """(address, stride of batches) of a (B or 1, 1, F) tensor."""
    fits = v.ndim == 3 and v.shape[0] in (1, batch) and v.shape[1:] == (1, features)
    if not fits or v.dtype is not torch.float32 or not v.is_cpu or v.stride(2) != 1:
        raise ConfigError(
            f"{name} is {tuple(v.shape)} {v.dtype} on {v.device}",
            hint=f"float32 ({batch} or 1, 1, {features}) on the CPU, contiguous channels",
        )
    return v.data_ptr(), v.stride(0) if v.shape[0] == batch else 0
