"""Picture files as cameras and instruments write them.

They are made byte by byte where Pillow does not write their kind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]


def write_png(
    path: Path, values: Array, color: int, depth: int = 16, chunks: Sequence[tuple[bytes, bytes]] = ()
) -> Path:
    """PNG of (H, W) or (H, W, channels).

    `depth` bits a value, `color` as the format counts its color types.
    """
    height, width = values.shape[:2]
    if depth < 8:
        bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = np.frombuffer(values.astype(f">u{depth // 8}").tobytes(), np.uint8).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def write_tiff(
    path: Path,
    values: Array,
    *,
    bits: int | None = None,
    photometric: int = 1,
    order: str = "<",
    alpha: int | None = None,
) -> Path:
    """Uncompressed TIFF of (H, W) or (H, W, channels) in the array's type.

    `bits` 12 packs two values in three bytes.
    """
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint16)
        packed = [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255]
        data = np.stack(packed, 1).astype(np.uint8).tobytes()
    else:
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    depth = bits or values.dtype.itemsize * 8
    tags: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [depth] * channels),
        (259, "H", [1]),
        (262, "H", [photometric]),
        (273, "I", [8]),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(data)]),
        *([] if alpha is None else [(338, "H", [alpha])]),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * channels),
    ]
    end = 8 + len(data) + len(data) % 2
    later = end + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for number, kind, items in tags:
        packed_items = struct.pack(f"{order}{len(items)}{kind}", *items)
        if len(packed_items) > 4:
            place = struct.pack(f"{order}I", later + len(tail))
            tail += packed_items
        else:
            place = packed_items.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", number, {"H": 3, "I": 4}[kind], len(items)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, end)
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    path.write_bytes(head + data + b"\0" * (len(data) % 2) + directory + tail)
    return path


def write_pgm(path: Path, values: Array, highest: int, plain: bool = False) -> Path:
    """PGM (H, W) or PPM (H, W, 3) with a given highest value.

    In bytes or, if `plain`, in figures.
    """
    color = values.ndim == 3
    magic = {(False, False): "P5", (False, True): "P2", (True, False): "P6", (True, True): "P3"}[color, plain]
    head = f"{magic}\n{values.shape[1]} {values.shape[0]}\n{highest}\n".encode()
    body = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype(">u2" if highest > 255 else "u1").tobytes()
    )
    path.write_bytes(head + body + b"\n")
    return path


def folder(path: Path) -> Path:
    for split, count in (("train", 3), ("test", 1)):
        for kind, classname in enumerate(("cat", "dog")):
            (path / split / classname).mkdir(parents=True)
            for number in range(count):
                shade = np.full((32, 32, 3), 60 * kind + 10 * number + 100 * (split == "test"), np.uint8)
                Image.fromarray(shade).save(path / split / classname / f"{number}.png")
    return path
