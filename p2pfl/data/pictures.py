"""Decoding of a picture to 32×32 RGB: value range, transparency, orientation."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from p2pfl.config import PictureOptions
from p2pfl.data.dataset import IMAGE_SIDE
from p2pfl.data.pixel_values import (
    DeepValues,
    PictureError,
    ReducedColorError,
    is_reduced,
    is_signed_byte,
    key_scale,
    tiles,
    to_bytes,
    value_type,
)
from p2pfl.errors import one_line

# Formats that Pillow names and does not decode, or for which it starts another program (Ghostscript).
_NOT_DECODED = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"})
_WITH_FRAMES = frozenset({"AVIF", "DCX", "FLI", "GIF", "PNG", "TIFF", "WEBP"})
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # premultiplied by alpha, and not
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, uint8 (32, 32, 3); `deep` where its values had over 8 bits.

    `levels`: the lowest and highest in the file's colors, as far as these can be seen. `is_reduced`: its channels have
    more than 8 bits, of which the decoder gives the upper 8.
    """

    pixels: npt.NDArray[np.uint8]
    levels: tuple[int, int]
    deep: DeepValues | None
    is_reduced: bool
    is_transparent: bool
    is_animated: bool


@cache
def formats() -> tuple[str, ...]:
    """The formats that are decoded, by Pillow's names."""
    Image.init()
    return tuple(name for name in Image.ID if name in Image.OPEN and name not in _NOT_DECODED)


@cache
def extensions() -> frozenset[str]:
    """The extensions of these formats, in lower case, with their dot."""
    known = set(formats())
    if "JPEG" in known:
        known.add("MPO")  # opened as JPEG, which it is with more pictures behind the first
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in known)


def read_picture(path: str, options: PictureOptions) -> Picture:
    """Decode a picture, or the first of its frames, to 32×32 RGB.

    Raises PictureError, whose text says why in a few words, for one that cannot be used.
    """
    _check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large pictures: no lines between those of the run
            with Image.open(path, formats=formats()) as image:
                return _read(image, options)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("too large for this machine's memory") from error
    except Exception as error:  # Pillow raises many kinds, by format and by damage
        raise PictureError(_reason(path, error)) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's log messages from the terminal."""
    logger = logging.getLogger("PIL")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_regular(path: str) -> None:
    """Raise PictureError for a dangling link, and for a pipe, which would block."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        nowhere = os.path.islink(path) and not os.path.exists(path)
        raise PictureError("a link to a file that is not there" if nowhere else error.strerror or "") from error
    if not stat.S_ISREG(mode):
        raise PictureError("not a regular file")


def _read(image: Image.Image, options: PictureOptions) -> Picture:
    is_animated = image.format in _WITH_FRAMES and _has_frames(image)
    # A large JPEG may be decoded at a half, quarter or eighth, but never below twice what is kept.
    image.draft("RGB", (2 * IMAGE_SIDE, 2 * IMAGE_SIDE))
    kind, scale = value_type(image), key_scale(image)
    reduced = is_reduced(image)
    if options.value_range is not None and reduced:
        raise ReducedColorError("16-bit color")
    signed = is_signed_byte(image)
    inside = _frame(image)
    _load(image)
    alpha = _color_key(image, scale)
    deep = None
    if kind is not None:
        values, deep = to_bytes(image, kind, options.value_range)
        rgb = Image.fromarray(values)  # gray until it is small
    else:
        if signed:
            image = image.point([level ^ 0x80 for level in range(256)])
        rgb, own_alpha = _rgb(image)
        alpha = alpha or own_alpha or _only(inside, image.size)
    is_transparent = alpha is not None and alpha.getextrema()[0] != 255
    levels = _levels(rgb, alpha if is_transparent else None)
    if alpha is not None and is_transparent:
        rgb = rgb.convert("RGB")
        ground = Image.new("RGB", rgb.size, options.background)
        ground.paste(rgb, mask=alpha)
        rgb = ground
    turn = _turn(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb.size != (IMAGE_SIDE, IMAGE_SIDE):
        rgb = rgb.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    return Picture(np.asarray(rgb.convert("RGB")), levels, deep, reduced, is_transparent, is_animated)


def _levels(colors: Image.Image, alpha: Image.Image | None) -> tuple[int, int]:
    """Lowest and highest level of all visible pixels; 0 and 255 if none is visible."""
    mask = None if alpha is None else alpha.point([0] + [255] * 255)
    counts = np.reshape(colors.histogram(mask), (-1, 256)).sum(0)
    found = np.flatnonzero(counts)
    return (int(found[0]), int(found[-1])) if found.size else (0, 255)


def _rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture of 8 bits a channel as RGB, and its alpha channel if it has one."""
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # None is returned only where it is done in place
        return converted, None
    palette_mode = "" if image.palette is None else image.palette.mode
    if image.mode == "PA" or (image.mode == "P" and ("transparency" in image.info or palette_mode == "RGBA")):
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    return image.convert("RGB"), alpha


def _color_key(image: Image.Image, scale: float) -> Image.Image | None:
    """The alpha channel of a picture in which one color, or one gray, is transparent."""
    key = image.info.get("transparency")
    if key is None or isinstance(key, bytes) or image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        return None
    wanted = np.floor(np.asarray(key) * scale)
    opaque = np.empty((image.height, image.width), np.uint8)
    for place, values in tiles(image):
        if image.mode == "1":
            values = values.astype(np.uint8) * 255
        same = values == (wanted % 256 if values.dtype == np.uint8 else wanted)
        opaque[place] = np.where(same.all(-1) if same.ndim == 3 else same, 0, 255)
    return Image.fromarray(opaque)


def _frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Box of a GIF's first frame in its canvas; None if it fills that.

    The GIF is opened and not yet loaded.
    """
    tile = getattr(image, "tile", None)
    box = tile[0][1] if image.format == "GIF" and tile else None
    return None if box is None or tuple(box) == (0, 0, *image.size) else tuple(box)


def _only(box: tuple[int, int, int, int] | None, size: tuple[int, int]) -> Image.Image | None:
    """Alpha channel that is transparent outside a box, as in browsers."""
    if box is None:
        return None
    alpha = Image.new("L", size)
    alpha.paste(255, box)
    return alpha


def _load(image: Image.Image) -> None:
    """Decode all pixels, while errors that libtiff prints go nowhere."""
    if image.format != "TIFF" or sys.stderr is None:
        image.load()
        return
    sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # there is none
        image.load()
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        image.load()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a later frame is damaged: it is not the one that is used
        return True


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that EXIF asks for, if any; None where these data are damaged."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "empty file" if not os.path.getsize(path) else "no picture of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error).replace(path, "the file")[:100]
