"""The layers of a packed video decoder as a few native calls, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ._native import native
from .packed_conv import PackedConv
from .part_motion import PartMotion

_PLACE = 4  # pixels across a place of picture_warp, and down

#: Two convolutions, with SiLU before each, whose result is added to what they are given.
Residual = tuple[PackedConv, PackedConv]


@dataclass(frozen=True)
class KnownCharacter:
    """What ``VideoLayers`` add for a character of h x w latents, float32 contiguous on the CPU.

    Attributes:
        coarse, middle, fine: added to ``inputs``, ``split`` and ``up``: (1, h, w, a), (1, 2h, 2w, b), (1, 4h, 4w, c).
        picture: (16h + 4, 16w + 4, 4), see ``with_rim``.
    """

    coarse: Tensor
    middle: Tensor
    fine: Tensor
    picture: Tensor


class VideoLayers:
    """A latent (C, h, w), the one before and a character to frames; h and w even, pictures 16 times as large.

    ``inputs`` of both latents and the ``trunk`` at 1/16, ``split`` to the frames at 1/8; then for each frame ``middle``,
    ``flow`` of its SiLU to the places of ``picture_warp``, ``up`` to 1/4, to which ``warped`` of the moved reference is
    added, ``fine``, and ``out`` of its SiLU, which ``picture_blend`` makes pixels. The same bits as those ops give one
    after another.

    Immutable; any number of threads may draw at once. Buffers are kept from drawing to drawing, as many as there were
    side by side.

    Attributes:
        channels: C.  frames: of a latent.  nbytes: memory that the weights hold.
        common, of_frame: convolutions of a latent and of each of its frames, each as (convolution, how many times as
            many rows as the latent its input has, whether something is added).
    """

    def __init__(self, *, inputs: PackedConv, trunk: Sequence[Residual], split: PackedConv, middle: Residual,
                 flow: PackedConv, up: PackedConv, warped: PackedConv, fine: Residual, out: PackedConv,
                 motion: PartMotion, local: float) -> None:
        """``local``: pixels that the local flow of ``picture_warp`` is at most.

        Raises:
            ConfigError: for layers that do not fit together.
        """
        a, b, c = inputs.channels, split.channels, up.channels
        wanted = [(inputs, inputs.in_channels, a, 1, 1), (split, a, b, motion.frames, 2), (up, b, c, 1, 2),
                  (flow, b, 4 * (motion.parts + 2), 1, 1), (warped, 4 * _PLACE**2, c, 1, 1), (out, c, 5 * _PLACE**2, 1, 1),
                  *((layer, width, width, 1, 1) for blocks, width in ((trunk, a), ([middle], b), ([fine], c))
                    for block in blocks for layer in block)]
        for layer, *shape in wanted:
            if [layer.in_channels, layer.channels, layer.frames, layer.shuffle] != shape:
                raise ConfigError(f"{layer} does not fit", hint="{} -> {} channels, {} frames, shuffled by {}".format(*shape))
        if inputs.in_channels % 2 or inputs.in_channels // 2 < motion.channels or motion.parts > native.max_picture_parts:
            raise ConfigError(
                f"{inputs} and {motion.parts} parts",
                hint=f"two latents of at least {motion.channels} channels, at most {native.max_picture_parts} parts",
            )
        self.channels, self.frames = inputs.in_channels // 2, motion.frames
        self._widths = a, b, c
        trunk = [tuple(block) for block in trunk]
        residuals = lambda block, scale: [(block[0], scale, False), (block[1], scale, True)]
        self.common = [(inputs, 1, True), *(one for block in trunk for one in residuals(block, 1)), (split, 1, True)]
        self.of_frame = [*residuals(middle, 2), (flow, 2, False), (up, 2, True), (warped, 4, True), *residuals(fine, 4),
                         (out, 4, False)]
        self.nbytes = sum(layer.nbytes for layer, _, _ in (*self.common, *self.of_frame))
        pair = lambda block: tuple(layer._packed for layer in block)
        self._native = native.VideoDecoder(
            inputs._packed, [pair(block) for block in trunk], split._packed, pair(middle), flow._packed, up._packed,
            warped._packed, pair(fine), out._packed, motion._native, local)

    def drawing(self, character: KnownCharacter) -> LatentDrawing:
        """A latent's drawing. Its buffers are the next one's when it is dropped, at any time.

        Raises:
            ConfigError: for a character that does not fit.
        """
        _, height, width, _ = character.coarse.shape if character.coarse.ndim == 4 else (0, 0, 0, 0)
        a, b, c = self._widths
        shapes = {"coarse": (1, height, width, a), "middle": (1, 2 * height, 2 * width, b),
                  "fine": (1, 4 * height, 4 * width, c), "picture": (16 * height + 4, 16 * width + 4, 4)}
        for name, shape in shapes.items():
            _check(name, getattr(character, name), shape, torch.float32)
        if not height or not width or height % 2 or width % 2 \
                or (16 * height + 4) * (16 * width + 4) > native.max_picture_pixels:
            raise ConfigError(
                f"{height} x {width} latents", hint=f"even, and {native.max_picture_pixels} pixels of a picture at most")
        return LatentDrawing(self, character, height, width)


class LatentDrawing:
    """A latent whose frames are being drawn, by one thread at a time: ``begin``, then ``frame`` for each, pieces of
    about the same length. See ``VideoLayers.drawing``."""

    def __init__(self, layers: VideoLayers, character: KnownCharacter, height: int, width: int) -> None:
        self.layers, self.height, self.width = layers, height, width
        self._character = character     # whose memory is read
        self._left: set[int] = set()
        self._native = native.LatentDrawing(
            layers._native, height, width,
            tuple(x.data_ptr() for x in (character.coarse, character.middle, character.fine, character.picture)))

    def begin(self, latent: Tensor, previous: Tensor) -> None:
        """What the frames have in common, of float32 (C, h, w) contiguous.

        Raises:
            ConfigError: on another shape or dtype.
        """
        shape = self.layers.channels, self.height, self.width
        _check("latent", latent, shape, torch.float32)
        _check("previous", previous, shape, torch.float32)
        self._native.begin(latent.data_ptr(), previous.data_ptr())
        self._left = set(range(self.layers.frames))

    def frame(self, index: int, out: Tensor, picture: Tensor | None = None) -> None:
        """Draws frame ``index``, once after ``begin``, to ``out[index]``: uint8 (frames, 16h, 16w, 4) contiguous, with
        straight alpha. ``picture``: what is moved in place of the character's, of its shape.

        Raises:
            ConfigError: on another shape or dtype, or where the frame is not to be drawn.
        """
        _check("out", out, (self.layers.frames, 16 * self.height, 16 * self.width, 4), torch.uint8)
        if index not in self._left:
            raise ConfigError(f"frame {index} is not to be drawn", hint="begin, then each frame once")
        picture = self._character.picture if picture is None else picture
        _check("picture", picture, self._character.picture.shape, torch.float32)
        self._left.remove(index)
        self._native.frame(index, out.data_ptr() + index * out.stride(0), picture.data_ptr())


def _check(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if x.shape != shape or x.dtype is not dtype or not x.is_cpu or not x.is_contiguous():
        raise ConfigError(f"{name} is {tuple(x.shape)} {x.dtype} on {x.device}",
                          hint=f"contiguous {dtype} {shape} on the CPU")
