"""Text forms of bytes, seconds, shares, counts and other numbers."""

from __future__ import annotations

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def byte_unit(count: float) -> tuple[int, str]:
    """Decimal unit for a number of bytes: its size and its name."""
    # 999.6 kB would be written as 1e+03 kB: three digits of it are 1 MB.
    return next((unit for unit in _BYTE_UNITS if count >= 0.9995 * unit[0]), _BYTE_UNITS[-1])


def bytes_text(count: float) -> str:
    """Bytes in decimal units, such as 12.3 MB (10⁶ bytes)."""
    size, name = byte_unit(count)
    digits = ".3g" if size > 1 and count < 1000 * size else ",.0f"
    return f"{count / size:{digits}} {name}"


def seconds_text(seconds: float) -> str:
    """A duration in words, such as 4.21 s, 3 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock_text(seconds: float) -> str:
    """A duration as on a clock, such as 2:31 or 1:02:31."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def percent_text(share: float) -> str:
    """A share in 0..1 as a percentage, such as 91.25 %."""
    return f"{100 * share:.2f} %"


def number_text(value: float) -> str:
    """Four significant digits; whole numbers in full with separators."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """A count with its noun, such as 1 round or 2 rounds."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"
