"""Compressor that --compression names: its kind, and the fraction that it keeps."""

from __future__ import annotations

import math
from typing import NamedTuple

from p2pfl import registry
from p2pfl.errors import ConfigError


class CompressionChoice(NamedTuple):
    """Kind of a compressor, and the fraction F of the values that it keeps."""

    kind: str
    fraction: float = 1.0


def compression_choice(text: str) -> CompressionChoice:
    """The compressor that --compression names. Raises ConfigError."""
    registry.check("compression", text)
    kind, _, argument = text.partition(":")
    if not registry.COMPRESSIONS[kind].argument:
        return CompressionChoice(kind)
    try:
        fraction = float(argument)
    except ValueError:
        fraction = math.nan
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"--compression {text}: needs a fraction above 0 and up to 1, such as {kind}:0.1")
    return CompressionChoice(kind, fraction)
