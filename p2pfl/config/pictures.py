"""Options of decoding pictures: the values of --image-range and --background."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

RANGE_REMEDY = "must be two numbers LOW,HIGH with LOW below HIGH, such as 0,4095"
COLOR_REMEDY = "must be a CSS color name or #rrggbb, such as black or #808080"
_WHITE = (255, 255, 255)
_HEXADECIMAL = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class PictureOptions:
    """Range of values of more than 8 bits, and background color (red, green, blue).

    `by_peer`: the folder holds one folder for each peer, with its own pictures.
    """

    value_range: tuple[float, float] | None = None
    background: tuple[int, int, int] = _WHITE
    by_peer: bool = field(default=False, repr=False)  # no part of how a picture is decoded, which names cache files


def parse_range(text: str) -> tuple[float, float] | None:
    """The two numbers of LOW,HIGH; None unless they are finite and ascending."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (low, high) if low < high and math.isfinite(high - low) else None


def range_text(value_range: tuple[float, float]) -> str:
    """LOW,HIGH in one spelling, which `parse_range` reads back exactly."""
    return ",".join(str(int(end)) if end.is_integer() and abs(end) < 2**53 else repr(end) for end in value_range)


def color_text(color: tuple[int, int, int]) -> str:
    """The color in one spelling: white, the default, or #rrggbb."""
    return "white" if color == _WHITE else "#{:02x}{:02x}{:02x}".format(*color)


def parse_color(text: str) -> tuple[int, int, int] | None:
    """Red, green, blue of a CSS color name or #rrggbb; None for anything else."""
    if text.lower() == "white":
        return _WHITE  # the default needs no Pillow
    if not _HEXADECIMAL.fullmatch(text):
        from PIL import ImageColor

        code = ImageColor.colormap.get(text.lower())
        if not isinstance(code, str):
            return None
        text = code
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
