"""Gray values of more than 8 bits, mapped from the range of their type to 0..255."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Range = tuple[float, float]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_TILE_PIXELS = 1 << 18  # whose values are computed with at once
_WHITE_IS_ZERO, _SIGNED, _UNSIGNED = 0, 2, 1
_REDUCED = re.compile(r";16|SGI16")  # Pillow's raw modes of 16 bits a channel, and its decoder that ends at 8 bits
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, then the size segment
_COMPONENT = 38  # of the size segment: the byte with the first component's sign and bit depth


class PictureError(Exception):
    """A picture that cannot be used, and why in a few words."""


class UnknownRangeError(PictureError):
    """Values of 32 bits or floats, `found` in this picture, of unknown range."""

    def __init__(self, found: Range) -> None:
        super().__init__("32-bit or float values")
        self.found = found


class ReducedColorError(PictureError):
    """Color of 16 bits, of which 8 are read: --image-range cannot be applied."""


@dataclass(frozen=True)
class ValueType:
    """Type of a picture's values: range, unit and sign.

    `range` is that of the file's type, None for 32 bits and floats. A value of the file is `unit` times the decoded
    value plus `offset`: decoders stretch values of 9 to 15 bits to 16. `is_inverted`: the lowest value is white.
    """

    range: Range | None
    unit: float = 1.0
    offset: float = 0.0
    is_inverted: bool = False
    is_unsigned: bool = False  # 32 bits that Pillow hands out as signed


@dataclass(frozen=True)
class DeepValues:
    """Extremes of a picture's values, and the pixels outside the range in use."""

    found: Range
    used: Range
    pixels: int
    outside: int


def value_type(image: Image.Image) -> ValueType | None:
    """Type of the values of an opened, not yet loaded picture; None for 8 bits."""
    if not image.mode.startswith(("I", "F")):
        return None
    if image.format == "FITS":  # Pillow ignores BZERO and BSCALE, without which the values mean nothing
        raise PictureError("FITS with more than 8 bits; convert it to a 16-bit TIFF or PNG")
    if image.format == "TIFF":
        return _type_of_tiff(image)
    if image.mode == "F":
        return ValueType(None)
    if image.format == "PPM":
        highest = _highest_of_ppm(image) or 65535
        return ValueType((0, highest), unit=highest / 65535)
    if image.format == "JPEG2000":
        return _type_of_jpeg2000(image)
    return ValueType((0, 65535) if "16" in image.mode or ";16" in _raw_mode(image) else None)


def is_reduced(image: Image.Image) -> bool:
    """Return whether Pillow reduces this picture to 8 bits.

    The picture is opened and not yet loaded.
    """
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "PPM":
        return (_highest_of_ppm(image) or 255) > 255
    if image.format == "JPEG2000" and _depth_of_jpeg2000(image)[0] > 8:
        # Pillow rounds 9 to 16 bits up to 8 without a limit, so that white may become black.
        raise PictureError("JPEG 2000 in color with more than 8 bits; convert it to PNG or TIFF")
    return bool(_REDUCED.search(_raw_mode(image)))


def is_signed_byte(image: Image.Image) -> bool:
    """Return whether a TIFF's 8-bit values are signed, which Pillow ignores."""
    return image.format == "TIFF" and image.mode == "L" and _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED


def key_scale(image: Image.Image) -> float:
    """Factor from a transparent value in the file to the one that Pillow decodes."""
    raw = _raw_mode(image)
    if raw.endswith("L;2"):
        return 85
    if raw.endswith("L;4"):
        return 17
    return 1 / 256 if is_reduced(image) else 1


def tiles(image: Image.Image) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[Any]]]:
    """Decoded values in tiles of rows and columns, to compute in little memory."""
    wide = max(1, min(image.width, _TILE_PIXELS))
    high = max(1, _TILE_PIXELS // wide)
    for top in range(0, image.height, high):
        for left in range(0, image.width, wide):
            right, bottom = min(left + wide, image.width), min(top + high, image.height)
            yield (slice(top, bottom), slice(left, right)), np.asarray(image.crop((left, top, right, bottom)))


def to_bytes(image: Image.Image, kind: ValueType, wanted: Range | None) -> tuple[npt.NDArray[np.uint8], DeepValues]:
    """Map `wanted`, or else the type's range, linearly to 0..255, and clip the rest.

    Never by the picture's own extremes, since brightness is to mean the same in all pictures. Raises
    UnknownRangeError where neither is known, PictureError for values that are not numbers.
    """
    used = wanted or kind.range
    levels = np.empty((image.height, image.width) if used else 0, np.uint8)
    lowest, highest, outside = math.inf, -math.inf, 0
    for place, pixels in tiles(image):
        values = (pixels.view(np.uint32) if kind.is_unsigned else pixels).astype(np.float64)
        values *= kind.unit
        values += kind.offset
        if np.isnan(values).any():
            raise PictureError("holds values that are not numbers (NaN)")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        if used is None:
            continue
        low, high = used
        outside += int(np.count_nonzero((values < low) | (values > high)))
        mapped = np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        levels[place] = 255 - mapped if kind.is_inverted else mapped
    if used is None:
        raise UnknownRangeError((lowest, highest))
    return levels, DeepValues((lowest, highest), used, image.height * image.width, outside)


def _type_of_tiff(image: Image.Image) -> ValueType:
    bits, signed = int(_tag(image, _BITS_PER_SAMPLE, 1)), _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED
    inverted = _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    if image.mode == "F":
        return ValueType(None, is_inverted=inverted)
    if bits > 16:
        return ValueType(None, is_inverted=inverted, is_unsigned=not signed)
    lowest = -(1 << (bits - 1)) if signed else 0
    return ValueType((lowest, lowest + (1 << bits) - 1), is_inverted=inverted)


def _type_of_jpeg2000(image: Image.Image) -> ValueType:
    bits, signed = _depth_of_jpeg2000(image)
    if bits > 16:
        raise PictureError("JPEG 2000 with more than 16 bits; convert it to PNG or TIFF")
    lowest = -(1 << (bits - 1)) if signed else 0
    return ValueType((lowest, lowest + (1 << bits) - 1), unit=2.0 ** (bits - 16), offset=lowest)


def _depth_of_jpeg2000(image: Image.Image) -> tuple[int, bool]:
    """Bits of a value, and whether it is signed, as the size segment says."""
    file = getattr(image, "fp", None)
    if file is not None:
        place = file.tell()
        file.seek(0)
        _, found, segment = file.read(1 << 20).partition(_CODESTREAM)
        file.seek(place)
        if found and len(segment) > _COMPONENT:
            return (segment[_COMPONENT] & 0x7F) + 1, bool(segment[_COMPONENT] & 0x80)
    return (16 if image.mode.startswith("I") else 8), False


def _highest_of_ppm(image: Image.Image) -> int | None:
    """The file's highest value; None where Pillow needs no conversion."""
    tile = _tile(image)
    arguments: Any = tile[3] if tile else None  # raw mode and highest value
    return arguments[1] if isinstance(arguments, tuple) and len(arguments) == 2 else None


def _raw_mode(image: Image.Image) -> str:
    """Name and raw mode of Pillow's decoder for the file."""
    tile = _tile(image)
    if not tile:
        return ""
    arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return f"{tile[0]} {arguments[0] if arguments else ''}"


def _tile(image: Image.Image) -> Any:
    tiles = getattr(image, "tile", None)
    return tiles[0] if tiles else None


def _tag(image: Image.Image, number: int, default: int) -> Any:
    value = getattr(image, "tag_v2", {}).get(number, default)
    return value[0] if isinstance(value, tuple) else value
