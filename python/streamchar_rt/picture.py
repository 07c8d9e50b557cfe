"""From any picture to the square RGBA array that the model takes."""
from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ConfigError

MIN_SIDE = 16
MAX_PIXELS = 64_000_000
MAX_ASPECT = 8
_ACCEPTED = "a PNG, JPEG or WebP file, a PIL image, or a uint8 array (height, width, 3 or 4)"


def load_picture(image: Any, width: int, height: int) -> npt.NDArray[np.uint8]:
    """``image`` as uint8 (height, width, 4), straight alpha.

    The picture is scaled to fit, its aspect kept, and padded with transparent pixels.

    Args:
        image: a path, a PIL image, or an array: (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1].

    Raises:
        ConfigError: for what is no picture, or one that is empty, tiny, huge, extremely long or invisible.
    """
    if isinstance(image, Image.Image):
        picture = _decoded(image, "the picture")
    elif isinstance(image, (str, os.PathLike)):
        picture = _open(Path(image))
    else:
        picture = _from_array(image)
    fitted = ImageOps.contain(picture, (width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    square.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    pixels = np.array(square)
    if not pixels[..., 3].any():
        raise ConfigError("the picture is wholly transparent", hint="give one that shows the character")
    return pixels


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size judges, from the header
            with Image.open(path) as image:
                return _decoded(image, str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no picture {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder", hint=_ACCEPTED) from error
    except PermissionError as error:
        raise ConfigError(f"{path} may not be read", hint="check its permissions") from error
    except UnidentifiedImageError as error:
        raise ConfigError(f"{path} is not a picture", hint=_ACCEPTED) from error
    except Image.DecompressionBombError as error:
        raise ConfigError(f"{path} is too large: {error}", hint=f"at most {MAX_PIXELS // 1_000_000} megapixels") from error


def _decoded(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.width, image.height, name)
    try:
        return ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise ConfigError(f"{name} is damaged: {error}", hint="save it again, for example as PNG") from error


def _from_array(image: Any) -> Image.Image:
    try:
        array = np.asarray(image)
    except Exception as error:
        raise ConfigError(f"{type(image).__name__} is not a picture", hint=_ACCEPTED) from error
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise ConfigError(f"a picture cannot have shape {array.shape}", hint=_ACCEPTED)
    _check_size(array.shape[1], array.shape[0], "the picture")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ConfigError("the picture holds NaN or infinity", hint="clean it before")
        if array.min() < 0 or array.max() > 1:
            raise ConfigError("a float picture has values outside [0, 1]", hint="divide by 255, or pass uint8")
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ConfigError(f"a picture cannot be of {array.dtype}", hint="uint8, or float in [0, 1]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGBA")


def _check_size(width: int, height: int, name: str) -> None:
    size = f"{name} is {width}x{height} pixels"
    if min(width, height) < MIN_SIDE:
        raise ConfigError(size, hint=f"both sides must be at least {MIN_SIDE}; 256 or more looks best")
    if width * height > MAX_PIXELS:
        raise ConfigError(size, hint=f"at most {MAX_PIXELS // 1_000_000} megapixels; scale it down")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ConfigError(size, hint="crop it to about a square")
