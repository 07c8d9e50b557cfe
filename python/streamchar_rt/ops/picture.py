"""What makes pictures of a video decoder's numbers: the warp of the reference, and the blend.

Native for float32 on a CPU without gradient; else plain torch. Also ``torch.ops.streamchar.picture_warp`` and
``picture_blend``, which ``torch.compile`` sees.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from . import reference
from ._library import register
from ._native import native, needs_gradient

_PLACE = 4  # pixels across a place, and down


def picture_warp(
    places: Tensor, motion: Tensor, picture: Tensor, local: float, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A reference picture moved by the flow of parts that move rigidly, each place of 4 x 4 pixels choosing among them.

    Args:
        places: (F, h / 2, w / 2, 4 * (P + 2)), before their pixel shuffle by 2: scores of P parts, and the local flow.
        motion: (F, P, 2, 3), pixels: what a part does at (x, y, 1), which go from -1 to 1.
        picture: (4 * h + 4, 4 * w + 4, 4): with a rim of two zero pixels, see ``with_rim``.
        local: pixels that the local flow is at most.
        out: where to write ``warped``, contiguous.

    Returns:
        ``warped`` (F, h, w, 4 * 16), of each place by channel and pixel, as ``pixel_unshuffle`` gives it; and ``flow``
        (F, h, w, 2), pixels from each place to where the picture shows it, x and y.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    frames, height, width, numbers = places.shape if places.ndim == 4 else (0, 0, 0, 0)
    parts = numbers // 4 - 2
    if parts < 1 or numbers % 4 or not height or not width:
        raise ConfigError(f"places are {tuple(places.shape)}", hint="(frames, rows, columns, 4 * (parts + 2))")
    shapes = (frames, parts, 2, 3), (height * 2 * _PLACE + 4, width * 2 * _PLACE + 4, 4)
    if motion.shape != shapes[0] or picture.shape != shapes[1]:
        raise ConfigError(
            f"motion is {tuple(motion.shape)}, picture {tuple(picture.shape)}", hint=f"{shapes[0]} and {shapes[1]}"
        )
    _check_alike(places=places, motion=motion, picture=picture)
    height, width = 2 * height, 2 * width
    shape = frames, height, width, 4 * _PLACE**2
    _check_out(out, shape, places.dtype, places.device)
    if not _native(places, motion, picture) or parts > native.max_picture_parts \
            or picture[..., 0].numel() > native.max_picture_pixels:
        warped, flow = reference.picture_warp(places, motion, picture, local)
        return warped if out is None else out.copy_(warped), flow
    places, motion, picture = (t.detach().contiguous() for t in (places, motion, picture))
    warped, flow = places.new_empty(shape) if out is None else out, places.new_empty(frames, height, width, 2)
    native.picture_warp(
        frames, height, width, parts, places.data_ptr(), motion.data_ptr(), local, picture.data_ptr(),
        flow.data_ptr(), warped.data_ptr(),
    )
    return warped, flow


def with_rim(picture: Tensor) -> Tensor:
    """A picture (H, W, 4) as ``picture_warp`` takes it."""
    return torch.nn.functional.pad(picture, (0, 0, 2, 2, 2, 2)).contiguous()


def picture_blend(drawn: Tensor, warped: Tensor, *, out: Tensor | None = None) -> Tensor:
    """What was drawn, blended with the warped reference: uint8 (F, 4 * h, 4 * w, 4), straight alpha.

    Args:
        drawn: (F, h, w, 5 * 16), of each place: premultiplied RGBA less 1/2, and the blend weight before its sigmoid.
        warped: (F, h, w, 4 * 16), as ``picture_warp`` gives it.
        out: where to write, contiguous.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    if drawn.ndim != 4 or drawn.shape[3] != 5 * _PLACE**2 or warped.shape != (*drawn.shape[:3], 4 * _PLACE**2):
        raise ConfigError(
            f"drawn is {tuple(drawn.shape)}, warped {tuple(warped.shape)}", hint="(F, h, w, 80) and (F, h, w, 64)"
        )
    _check_alike(drawn=drawn, warped=warped)
    frames, height, width, _ = drawn.shape
    shape = frames, height * _PLACE, width * _PLACE, 4
    _check_out(out, shape, torch.uint8, drawn.device)
    if not _native(drawn, warped):
        blended = reference.picture_blend(drawn, warped)
        return blended if out is None else out.copy_(blended)
    drawn, warped = drawn.detach().contiguous(), warped.detach().contiguous()
    if out is None:
        out = drawn.new_empty(shape, dtype=torch.uint8)
    native.picture_blend(frames, height, width, drawn.data_ptr(), warped.data_ptr(), out.data_ptr())
    return out


def _check_alike(**tensors: Tensor) -> None:
    if len({(t.dtype, t.device) for t in tensors.values()}) > 1 or not all(
        t.is_floating_point() for t in tensors.values()
    ):
        kinds = ", ".join(f"{name} {t.dtype} on {t.device}" for name, t in tensors.items())
        raise ConfigError(f"{kinds} do not fit together", hint="floats of one dtype on one device")


def _check_out(out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if out is not None and (
        out.shape != shape or out.dtype is not dtype or out.device != device or not out.is_contiguous()
    ):
        raise ConfigError(f"out is {tuple(out.shape)} {out.dtype}", hint=f"contiguous {dtype} {shape} on {device}")


def _native(*tensors: Tensor) -> bool:
    return native is not None and all(t.is_cpu and t.dtype is torch.float32 for t in tensors) \
        and not needs_gradient(*tensors)


def _meta_warp(places, motion, picture, local):
    frames, height, width, _ = places.shape
    return (places.new_empty(frames, 2 * height, 2 * width, 4 * _PLACE**2),
            places.new_empty(frames, 2 * height, 2 * width, 2))


def _meta_blend(drawn, warped):
    frames, height, width, _ = drawn.shape
    return drawn.new_empty((frames, height * _PLACE, width * _PLACE, 4), dtype=torch.uint8)


register("picture_warp(Tensor places, Tensor motion, Tensor picture, float local) -> (Tensor, Tensor)", picture_warp,
         _meta_warp)
register("picture_blend(Tensor drawn, Tensor warped) -> Tensor", picture_blend, _meta_blend)
