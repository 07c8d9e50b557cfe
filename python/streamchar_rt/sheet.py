"""A contact sheet of a bundle's characters."""
from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .bundle import Bundle
from .errors import ConfigError
from .media import output_errors
from .picture import load_picture
from .pixels import BACKGROUND

_COLUMNS = 4
_CAPTION = 28  # pixels
_MARGIN = 8
_INK = (40, 44, 52)


def contact_sheet(bundle: Bundle, path: Path) -> None:
    """Draws every shipped character with its name and voice.

    Raises:
        OutputError: where ``path`` cannot be written.
        ConfigError: where its ending is no picture's.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"{path} is no picture's name", hint="for example characters.png")
    entries = list(bundle.characters.values())
    width, height = bundle.info.width, bundle.info.height
    columns = min(_COLUMNS, max(1, len(entries)))
    rows = -(-len(entries) // columns)
    cell = (width + _MARGIN, height + _CAPTION + _MARGIN)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for i, entry in enumerate(entries):
        x, y = _MARGIN + i % columns * cell[0], _MARGIN + i // columns * cell[1]
        picture = Image.fromarray(load_picture(bundle.path(entry.file), width, height))
        sheet.paste(picture, (x, y), picture)
        draw.text((x + width // 2, y + height + _CAPTION // 2), f"{entry.name} · {entry.voice}", _INK, font, "mm")
    with output_errors(path):
        sheet.save(path)
