"""Decoding of pictures against numpy.

More than 8 bits, transparency, orientation, frames, damage.
"""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features
from tests.support.picture_files import write_pgm, write_png, write_tiff

from p2pfl.config import PictureOptions
from p2pfl.data.pictures import Picture, extensions, read_picture
from p2pfl.data.pixel_values import PictureError, ReducedColorError, UnknownRangeError

Array = npt.NDArray[Any]

RAMP = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
SIGNED = RAMP.astype(np.int32) - 32768
BYTES = np.arange(1024, dtype=np.uint32).reshape(32, 32).astype(np.uint8)
COLORS = np.random.default_rng(0).integers(0, 65536, (32, 32, 3)).astype(np.uint16)


def read(path: Path, low_high: tuple[float, float] | None = None, ground: tuple[int, int, int] = (255,) * 3) -> Picture:
    return read_picture(str(path), PictureOptions(low_high, ground))


def levels(values: Array, low: float, high: float) -> Array:
    """Gray values scaled from LOW..HIGH to 0..255, in three equal channels."""
    scaled = (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
    return np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, 2)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


SIXTEEN: dict[str, tuple[Callable[[Path], Path], Array, float, float]] = {
    "png": (lambda p: saved(p / "a.png", Image.fromarray(RAMP)), RAMP, 0, 65535),
    "tiff": (lambda p: write_tiff(p / "a.tif", RAMP), RAMP, 0, 65535),
    "big-endian": (lambda p: write_tiff(p / "a.tiff", RAMP, order=">"), RAMP, 0, 65535),
    "lzw": (lambda p: saved(p / "a.tif", Image.fromarray(RAMP), compression="tiff_lzw"), RAMP, 0, 65535),
    "signed": (lambda p: write_tiff(p / "a.tif", SIGNED.astype("i2")), SIGNED, -32768, 32767),
    "twelve": (lambda p: write_tiff(p / "a.tif", RAMP >> 4, bits=12), RAMP >> 4, 0, 4095),
    "pgm": (lambda p: write_pgm(p / "a.pgm", RAMP, 65535), RAMP, 0, 65535),
    "pgm-4095": (lambda p: write_pgm(p / "a.pgm", RAMP >> 4, 4095), RAMP >> 4, 0, 4095),
    "pgm-plain": (lambda p: write_pgm(p / "a.pnm", RAMP // 66, 992, plain=True), RAMP // 66, 0, 992),
    "pgm-15": (lambda p: write_pgm(p / "a.pgm", RAMP >> 12, 15), RAMP >> 12, 0, 15),
    "white-is-zero": (lambda p: write_tiff(p / "a.tif", RAMP, photometric=0), 65535 - RAMP, 0, 65535),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_values_of_more_than_8_bits_map_by_their_types_range(kind: str, tmp_path: Path) -> None:
    write, values, low, high = SIXTEEN[kind]
    assert np.abs(read(write(tmp_path)).pixels.astype(int) - levels(values, low, high)).max() <= (kind != "png")


def test_a_dim_picture_stays_dim(tmp_path: Path) -> None:
    dim = saved(tmp_path / "a.png", Image.fromarray(RAMP // 8))  # never by the picture's own extremes
    picture = read(dim)
    assert picture.pixels.max() == 32
    assert picture.deep is not None
    assert picture.deep.found == (0, 65535 // 8)


@pytest.mark.parametrize("kind", ["png", "tiff", "signed", "twelve", "pgm-4095", "pgm-plain"])
def test_a_range_is_one_of_the_files_own_values(kind: str, tmp_path: Path) -> None:
    write, values, low, high = SIXTEEN[kind]
    middle = (low + (high - low) // 4, low + (high - low) // 2)
    picture = read(write(tmp_path), middle)
    assert np.abs(picture.pixels.astype(int) - levels(values, *middle)).max() <= 1
    assert picture.deep is not None
    assert picture.deep.outside == pytest.approx(np.count_nonzero((values < middle[0]) | (values > middle[1])), abs=2)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000_of_16_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jp2", Image.fromarray(RAMP), irreversible=False)
    assert (read(path).pixels == levels(RAMP, 0, 65535)).all()
    assert (read(path, (0, 4095)).pixels == levels(RAMP, 0, 4095)).all()


THIRTY_TWO: dict[str, tuple[Callable[[Path], Path], Array]] = {
    "float-tiff": (lambda p: write_tiff(p / "a.tif", RAMP.astype("f4") / 65535 - 0.5), RAMP / 65535 - 0.5),
    "float-big-endian": (lambda p: write_tiff(p / "a.tif", RAMP.astype("f4"), order=">"), RAMP),
    "pfm": (lambda p: saved(p / "a.pfm", Image.fromarray(RAMP.astype("f4"))), RAMP),
    "int32": (lambda p: write_tiff(p / "a.tif", RAMP.astype("i4") - 30000), RAMP.astype("i4") - 30000),
    "uint32": (lambda p: write_tiff(p / "a.tif", RAMP.astype("u4") * 65537), RAMP.astype("u4") * 65537),
}


@pytest.mark.parametrize("kind", THIRTY_TWO)
def test_32_bits_and_floats_need_a_range(kind: str, tmp_path: Path) -> None:
    write, values = THIRTY_TWO[kind]
    path, found = write(tmp_path), (float(values.min()), float(values.max()))
    with pytest.raises(UnknownRangeError) as caught:
        read(path)
    assert caught.value.found == pytest.approx(found)
    assert np.abs(read(path, found).pixels.astype(int) - levels(values, *found)).max() <= 1
    inner = (found[0] / 2, found[1] / 2)
    assert np.abs(read(path, inner).pixels.astype(int) - levels(values, *inner)).max() <= 1


def test_values_that_are_no_numbers_are_refused_and_infinite_ones_clipped(tmp_path: Path) -> None:
    values = RAMP.astype("f4")
    values[0, 0] = np.inf
    path = write_tiff(tmp_path / "a.tif", values)
    assert read(path, (0, 65535)).pixels[0, 0].tolist() == [255] * 3
    values[3, 3] = np.nan
    with pytest.raises(PictureError, match="NaN"):
        read(write_tiff(path, values), (0, 65535))


def test_16_bit_color_is_read_by_its_upper_bits_and_takes_no_range(tmp_path: Path) -> None:
    alpha = np.full((32, 32, 1), 65535, np.uint16)
    paths = [
        write_png(tmp_path / "a.png", COLORS, 2),
        write_png(tmp_path / "b.png", np.concatenate([COLORS, alpha], 2), 6),
        write_tiff(tmp_path / "c.tif", COLORS, photometric=2),
        write_tiff(tmp_path / "d.tif", COLORS, photometric=2, order=">"),
        write_pgm(tmp_path / "e.ppm", COLORS, 65535),
    ]
    for path in paths:
        assert np.abs(read(path).pixels.astype(int) - (COLORS >> 8)).max() <= 1, path
        with pytest.raises(ReducedColorError):
            read(path, (0, 4095))
    gray = write_png(tmp_path / "f.png", np.stack([RAMP, np.full_like(RAMP, 65535)], 2), 4)
    assert (read(gray).pixels[..., 0] == RAMP >> 8).all()


@pytest.mark.parametrize("size", [(3000, 700), (2_200_000, 1)])
def test_large_pictures_of_16_bits_need_little_memory_and_are_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 65536, size[::-1]).astype(np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values), compress_level=1)
    tracemalloc.start()
    try:
        picture = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = Image.fromarray(levels(values, 0, 65535)).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(picture.pixels.astype(int) - np.asarray(whole)).max() <= 1
    assert picture.deep is not None
    assert picture.deep.found == (values.min(), values.max())
    assert peak < 20e6  # of the tiles; all values at once take 50 MB


def test_a_picture_that_memory_does_not_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    path = saved(tmp_path / "a.png", Image.fromarray(RAMP))
    monkeypatch.setattr(np, "asarray", full)
    with pytest.raises(PictureError, match="too large for this machine's memory"):
        read(path)


def test_signed_bytes(tmp_path: Path) -> None:
    signed = (BYTES.astype(int) - 128).astype(np.int8)
    assert (read(write_tiff(tmp_path / "a.tif", signed)).pixels[..., 1] == BYTES).all()


# --- transparency ---

CLEAR = np.zeros((32, 32), bool)
CLEAR[:, :16] = True  # the left half
GROUND = (10, 20, 30)


def over(rgb: Array, alpha: Array) -> Array:
    share = alpha[..., None] / 255
    return rgb * share + np.array(GROUND) * (1 - share)


def paletted(clear: int | bytes) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.fromarray(np.where(CLEAR, 1, 2).astype(np.uint8), "L").convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 100, 0])
    return image, {"transparency": clear}


def test_alpha_is_put_on_the_background(tmp_path: Path) -> None:
    rgb, alpha = (COLORS >> 8).astype(np.uint8), BYTES
    four = np.dstack([rgb, alpha])
    gray = np.repeat(rgb[..., :1], 3, 2)
    premultiplied = np.dstack([(rgb * (alpha[..., None] / 255)).round().astype(np.uint8), alpha])
    cases = [
        (saved(tmp_path / "a.png", Image.fromarray(four)), rgb),
        (saved(tmp_path / "a.tif", Image.fromarray(four)), rgb),
        (saved(tmp_path / "a.tga", Image.fromarray(four)), rgb),
        (saved(tmp_path / "la.png", Image.fromarray(four[..., [0, 3]], "LA")), gray),
        (write_tiff(tmp_path / "la.tif", four[..., [0, 3]], alpha=2), gray),
        (write_png(tmp_path / "deep.png", four.astype(np.uint16) * 257, 6), rgb),
        (write_png(tmp_path / "la16.png", four[..., [0, 3]].astype(np.uint16) * 257, 4), gray),
    ]
    if features.check("webp"):
        cases.append((saved(tmp_path / "a.webp", Image.fromarray(four), lossless=True, exact=True), rgb))
    for path, expected in cases:
        picture = read(path, ground=GROUND)
        assert np.abs(picture.pixels - over(expected, alpha)).max() <= 1, path
        assert picture.is_transparent
    solid = alpha > 100  # below, little is left of the colors
    for name, values, kind in (("p.tif", premultiplied, rgb), ("q.tif", premultiplied[..., [0, 3]], gray)):
        pixels = read(
            write_tiff(tmp_path / name, values, photometric=2 if kind is rgb else 1, alpha=1), None, GROUND
        ).pixels
        assert np.abs(pixels - over(kind, alpha))[solid].max() <= 3


def test_a_transparent_color_is_put_on_the_background(tmp_path: Path) -> None:
    color = np.where(CLEAR[..., None], [1, 2, 3], [200, 100, 50]).astype(np.uint8)
    gray, two_bits = color[..., 0], np.where(CLEAR, 2, 1).astype(np.uint8)
    one, one_options = paletted(1)
    many, many_options = paletted(b"\xff\x00\xff")
    cases = [
        (saved(tmp_path / "rgb.png", Image.fromarray(color), transparency=(1, 2, 3)), (200, 100, 50)),
        (saved(tmp_path / "l.png", Image.fromarray(gray), transparency=1), (200,) * 3),
        (saved(tmp_path / "one.png", Image.fromarray(~CLEAR), transparency=0), (255,) * 3),
        (saved(tmp_path / "p.png", one, **one_options), (0, 100, 0)),
        (saved(tmp_path / "many.png", many, **many_options), (0, 100, 0)),
        (saved(tmp_path / "p.gif", one, **one_options), (0, 100, 0)),
        (write_png(tmp_path / "two.png", two_bits, 0, 2, [(b"tRNS", b"\0\2")]), (85,) * 3),
        (write_png(tmp_path / "i16.png", np.where(CLEAR, 300, 257 * 9), 0, 16, [(b"tRNS", b"\1\x2c")]), (9,) * 3),
        (
            write_png(tmp_path / "rgb16.png", color * np.uint16(257), 2, 16, [(b"tRNS", b"\1\1\2\2\3\3")]),
            (200, 100, 50),
        ),
    ]
    for path, kept in cases:
        expected = np.where(CLEAR[..., None], GROUND, kept)
        picture = read(path, ground=GROUND)
        assert (picture.pixels == expected).all(), path
        assert picture.is_transparent


def test_opaque_pictures_do_not_depend_on_the_background(tmp_path: Path) -> None:
    four = np.dstack([(COLORS >> 8).astype(np.uint8), np.full((32, 32), 255, np.uint8)])
    picture = read(saved(tmp_path / "a.png", Image.fromarray(four)), ground=GROUND)
    assert (picture.pixels == four[..., :3]).all()
    assert not picture.is_transparent


# --- color spaces, orientation, frames ---


def test_other_color_spaces(tmp_path: Path) -> None:
    sides = np.where(CLEAR[..., None], [220, 30, 30], [30, 30, 220]).astype(np.uint8)
    image = Image.fromarray(sides)
    lab = np.where(CLEAR[..., None], [54, 81 % 256, 70], [32, 79, -108 % 256]).astype(np.uint8)  # red, blue
    lab[..., 0] = lab[..., 0] * 2.55
    for path in (
        saved(tmp_path / "a.jpg", image.convert("CMYK"), quality=95),
        saved(tmp_path / "a.tif", image.convert("CMYK")),
        saved(tmp_path / "y.tif", image.convert("YCbCr")),
        write_tiff(tmp_path / "lab.tif", lab, photometric=8),
    ):
        left, right = read(path).pixels[:, 4].astype(int), read(path).pixels[:, 28].astype(int)
        assert (left[:, 0] > left[:, 2] + 100).all(), path
        assert (right[:, 2] > right[:, 0] + 100).all(), path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_photographs_are_brought_upright(suffix: str, tmp_path: Path) -> None:
    upright = np.zeros((32, 32), np.uint8)
    upright[:16, :8] = 200  # unlike under every turn and mirror
    stored = {6: np.rot90(upright), 3: np.rot90(upright, 2), 8: np.rot90(upright, 3), 2: upright[:, ::-1]}
    stored |= {4: upright[::-1], 5: upright.T, 7: np.rot90(upright, 2).T, 1: upright}
    for orientation, values in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / f"{orientation}.{suffix}", Image.fromarray(np.ascontiguousarray(values)), exif=exif)
        assert np.abs(read(path).pixels[..., 0].astype(int) - upright).mean() < 5, orientation


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_the_first_of_several_frames_is_used(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (200, 0)]
    picture = read(saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:]))
    assert picture.is_animated
    assert picture.pixels[0, 0].tolist() == [200, 0, 0]
    assert not read(saved(tmp_path / f"b.{suffix}", frames[0])).is_animated


def test_the_first_picture_of_an_mpo_file_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (200, 0)]
    path = saved(tmp_path / "a.mpo", frames[0], save_all=True, append_images=frames[1:])
    assert read(path).pixels[0, 0].tolist() == pytest.approx([200, 0, 0], abs=3)


def test_files_by_extension() -> None:
    assert {".jfif", ".jpe", ".gif", ".apng", ".pgm", ".pfm", ".tif", ".webp", ".bmp", ".tga", ".mpo"} <= extensions()
    # Named by Pillow, but not decoded, or by another program.
    assert not {".eps", ".ps", ".pdf", ".h5", ".hdf", ".mpg", ".wmf", ".grib", ".txt", ".csv"} & extensions()


# --- damage ---


def test_damage_of_every_kind_is_a_reason_and_never_a_line_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    options: dict[str, dict[str, Any]] = {"tif": {"compression": "tiff_lzw"}, "tiff": {"compression": "jpeg"}}
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "tga"):
        whole = saved(tmp_path / f"a.{suffix}", noise, **options.get(suffix, {}))
        content = whole.read_bytes()
        for size in (0, 1, 10, len(content) // 2, len(content) - len(content) // 10):
            whole.write_bytes(content[:size])
            with pytest.raises(PictureError) as caught:
                read(whole)
            assert str(caught.value)
            assert "\n" not in str(caught.value)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes to it: opening would wait indefinitely
    bomb = write_png(tmp_path / "bomb.png", np.zeros((1, 1), np.uint8), 0, 8)
    content = bytearray(bomb.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    bomb.write_bytes(content)
    reasons = {
        "text.png": "no picture of a known format",
        "gone.png": "a link to a file that is not there",
        "folder.png": "not a regular file",
        "pipe.png": "not a regular file",
        "bomb.png": "too many pixels",
    }
    for name, reason in reasons.items():
        with pytest.raises(PictureError, match=reason):
            read(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_ghostscript_is_never_started(tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # what counts is the content
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(PictureError, match="no picture of a known format"):
        read(path)


@pytest.mark.parametrize("color", [(200, 0, 0), (90, 90, 90)])  # with a palette, and gray
def test_what_the_first_frame_of_a_gif_does_not_cover_is_background(
    color: tuple[int, int, int], tmp_path: Path
) -> None:
    path = saved(tmp_path / "small.gif", Image.new("RGB", (16, 8), color))
    data = bytearray(path.read_bytes())
    assert not read(path).is_transparent
    data[6:10] = bytes([32, 0, 32, 0])  # the canvas
    path.write_bytes(data)
    picture = read(path, ground=(0, 0, 250))
    assert picture.is_transparent
    assert (picture.pixels[:8, :16] == color).all()
    assert (picture.pixels[8:] == (0, 0, 250)).all()
    assert (picture.pixels[:8, 16:] == (0, 0, 250)).all()
    assert (read(path).pixels[8:] == 255).all()
