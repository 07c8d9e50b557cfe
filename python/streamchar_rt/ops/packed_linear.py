"""Linear layers with weights packed once in a narrow type, for inference on a CPU."""
from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import float_rows, load_error, native

Storage = Literal["bf16", "int8"]
Activation = Literal["gelu_tanh"]


class PackedLinear:
    """``y = activation(x W^T + b)`` in float32, with W kept as bfloat16 or int8.

    bf16: relative error about 2e-3, at most 4e-3. int8: one scale per output and, at each call, one per row of x
    (largest magnitude = 127); about 1e-2 for normally distributed x and W, more where a row has outliers. A row
    with an infinity or NaN becomes NaN.

    A row of y depends on that row of x alone: not on the other rows, their number or the number of threads. So
    sessions that share a call get the bytes they would get alone. On another instruction set they differ in
    rounding.

    Immutable; any number of threads may call it at once.

    Attributes:
        in_features, out_features: K and N.
        storage: "bf16" or "int8".
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
        if storage not in ("bf16", "int8"):
            raise ConfigError(f"no storage {storage!r}", hint='"bf16" or "int8"')
        tensors = [None if t is None else t.detach().to("cpu", torch.float32).contiguous() for t in (weight, bias)]
        if not all(bool(torch.isfinite(t).all()) for t in tensors if t is not None):
            raise ConfigError("weight and bias must be finite", hint="the model is damaged")
        self.out_features, self.in_features = weight.shape
        self.storage = storage
        self._packed = native.PackedLinear(
            tensors[0].data_ptr(), 0 if tensors[1] is None else tensors[1].data_ptr(), *weight.shape, storage == "int8"
        )
        self.nbytes: int = self._packed.nbytes

    @classmethod
    def pack(cls, layer: torch.nn.Linear, storage: Storage = "bf16") -> PackedLinear:
        """A packed copy of a torch layer."""
        return cls(layer.weight, layer.bias, storage=storage)

    def __call__(self, x: Tensor, *, activation: Activation | None = None, out: Tensor | None = None) -> Tensor:
        """Applies the layer.

        Args:
            x: (..., K) on the CPU; float32 with contiguous rows is read in place.
            activation: "gelu_tanh" for ``gelu(y, approximate="tanh")``.
            out: where to write, float32 (..., N) contiguous; not x.

        Returns:
            float32 (..., N).

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or where a gradient is wanted.
        """
        if x.shape[-1:] != (self.in_features,) or x.device.type != "cpu" or not x.is_floating_point():
            raise ConfigError(
                f"x is {tuple(x.shape)} {x.dtype} on {x.device}", hint=f"(..., {self.in_features}) floats on the CPU"
            )
        if activation not in (None, "gelu_tanh"):
            raise ConfigError(f"no activation {activation!r}", hint='"gelu_tanh" or None')
        shape = (*x.shape[:-1], self.out_features)
        if out is None:
            out = torch.empty(shape)
        elif out.shape != shape or out.dtype is not torch.float32 or not out.is_contiguous() or out.device != x.device:
            raise ConfigError("out must be contiguous float32 of the result's shape", hint=f"torch.empty{shape}")
        x = float_rows("x", x)
        rows = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        self._packed.apply(
            rows.shape[0], rows.data_ptr(), rows.stride(0), out.data_ptr(), self.out_features,
            activation is not None,
        )
        return out

    def weight(self) -> Tensor:
        """The weights as they are multiplied, float32 (N, K)."""
        weight = torch.empty(self.out_features, self.in_features)
        self._packed.read(weight.data_ptr())
        return weight

    def __repr__(self) -> str:
        return f"PackedLinear({self.in_features} -> {self.out_features}, {self.storage})"
