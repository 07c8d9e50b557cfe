"""Convolutions with weights packed once as int8, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import float_rows, load_error, native
from .reference import conv_parts

class PackedConv:
    """``reference.packed_conv`` of pictures with channels last: 1x1, or 3x3 with a rim of zeros, W kept as int8.

    Weights have one scale per output; inputs, after SiLU where asked for, have 255 steps from the least to the
    largest in each row of pixels. About 1e-2 for normally distributed x and W. A row with an infinity or NaN makes
    NaN of all places that see it.

    A picture of y depends on that picture of x alone: not on the other pictures, their number or the number of
    threads. On another instruction set it differs in rounding.

    Immutable; any number of threads may call it at once.

    Attributes:
        in_channels: C, of all inputs together.
        channels: N, of a pixel of the result.
        size: 1 or 3.
        frames, shuffle: pictures that come of one, and pixels that come of one, across and down.
        nbytes: memory held.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, frames: int = 1, shuffle: int = 1) -> None:
        """Packs a copy of ``weight`` (O, C, size, size) and ``bias`` (O,), of any floating dtype, on the CPU.

        Raises:
            ConfigError: on shapes that do not fit together, or weights that are not finite.
            UnsupportedError: without the native module.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="use torch.nn.functional.conv2d")
        if weight.ndim != 4 or 0 in weight.shape or (bias is not None and bias.shape != weight.shape[:1]) \
                or weight.shape[2:] not in ((1, 1), (3, 3)):
            raise ConfigError(
                f"weight is {tuple(weight.shape)}, bias {None if bias is None else tuple(bias.shape)}",
                hint="weight (outputs, channels, size, size) with size 1 or 3, bias (outputs,) or None",
            )
        if frames < 1 or shuffle < 1 or weight.shape[0] % (frames * shuffle**2):
            raise ConfigError(
                f"{weight.shape[0]} outputs are not {frames} frames of {shuffle} x {shuffle} pixels",
                hint="outputs a multiple of frames * shuffle ** 2",
            )
        weight, bias = (
            None if t is None else conv_parts(t.detach().to("cpu", torch.float32), frames, shuffle).contiguous()
            for t in (weight, bias)
        )
        if not all(bool(torch.isfinite(t).all()) for t in (weight, bias) if t is not None):
            raise ConfigError("weight and bias must be finite", hint="the model is damaged")
        self.in_channels, self.size = weight.shape[1], weight.shape[2]
        self.channels, self.frames, self.shuffle = len(weight) // (frames * shuffle**2), frames, shuffle
        self._packed = native.PackedConv(
            weight.data_ptr(), 0 if bias is None else bias.data_ptr(), self.in_channels, self.channels, self.size,
            frames, shuffle,
        )
        self.nbytes: int = self._packed.nbytes

    @staticmethod
    def pays() -> bool:
        """Whether a decoder of these is faster here than torch's float32: from AVX2 on, most with VNNI."""
        return native is not None and native.isa() != "generic"

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], *, silu: bool = False, added: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Applies the convolution.

        Args:
            inputs: (B, H, W, C) on the CPU, or up to three with C in all, as if concatenated. Contiguous float32
                pictures are read in place, an expanded batch too.
            silu: whether the inputs go through SiLU first.
            added: float32, what is added to the result: of its shape, or with 1 in place of its batch.
            out: where to write, float32 contiguous; may be ``added``, no input.

        Returns:
            float32 (B * frames, H * shuffle, W * shuffle, N).

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or where a gradient is wanted.
        """
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if not 1 <= len(inputs) <= native.max_conv_inputs or any(
            x.ndim != 4 or x.shape[:3] != inputs[0].shape[:3] or not x.is_cpu or not x.is_floating_point()
            for x in inputs
        ) or sum(x.shape[3] for x in inputs) != self.in_channels:
            raise ConfigError(
                f"inputs are {[tuple(x.shape) for x in inputs]}",
                hint=f"1 to {native.max_conv_inputs} of (batch, height, width, channels), {self.in_channels} channels "
                     "in all, floats on the CPU",
            )
        batch, height, width, _ = inputs[0].shape
        shape = (batch * self.frames, height * self.shuffle, width * self.shuffle, self.channels)
        if out is None:
            out = torch.empty(shape)
        elif out.shape != shape or out.dtype is not torch.float32 or not out.is_contiguous() or not out.is_cpu:
            raise ConfigError("out must be contiguous float32 of the result's shape", hint=f"torch.empty{shape}")
        if added is not None and (
            added.dtype is not torch.float32 or not added.is_cpu or added.shape[1:] != shape[1:]
            or len(added) not in (1, shape[0]) or not added[:1].is_contiguous()
        ):
            raise ConfigError(
                f"added is {tuple(added.shape)} {added.dtype}", hint=f"float32 {shape}, or with 1 picture, contiguous"
            )
        if batch and height and width:
            pictures = [_pictures(x) for x in inputs]
            self._packed.apply(
                batch, height, width, [(x.data_ptr(), x.shape[3], _stride(x)) for x in pictures], silu,
                out.data_ptr(), 0 if added is None else added.data_ptr(), 0 if added is None else _stride(added),
            )
        return out

    def weight(self) -> Tensor:
        """The weights as they are multiplied, float32 (O, C, size, size), in the order that was given."""
        parts = self.frames, self.shuffle, self.shuffle
        weight = torch.empty(*parts, self.channels, self.in_channels, self.size, self.size)
        self._packed.read(weight.data_ptr())
        return weight.permute(0, 3, 1, 2, 4, 5, 6).flatten(0, 3)

    def __repr__(self) -> str:
        kind = f"{self.size}x{self.size}, {self.in_channels} -> {self.frames} x {self.channels}"
        return f"PackedConv({kind}, shuffled by {self.shuffle})"


def _pictures(x: Tensor) -> Tensor:
    """Float32, each picture contiguous."""
    x = float_rows("input", x)
    return x if x[0].is_contiguous() else x.contiguous()


def _stride(x: Tensor) -> int:
    """Of pictures; one picture is shared."""
    return x.stride(0) if len(x) > 1 else 0
