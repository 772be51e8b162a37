"""Numbers with their units, as people read them."""

from __future__ import annotations

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))

MISSING = "–"


def byte_unit(count: float) -> tuple[int, str]:
    """The decimal unit in which a number of bytes is read best: its size and its name."""
    return next((unit for unit in _BYTE_UNITS if count >= unit[0]), _BYTE_UNITS[-1])


def bytes_text(count: float) -> str:
    """Such as 12.3 MB (10⁶ bytes)."""
    size, name = byte_unit(count)
    return (
        f"{count:,.0f} B"
        if size == 1
        else f"{count / size:.3g} {name}"
        if count < 1000 * size
        else f"{count / size:,.0f} {name}"
    )


def seconds_text(seconds: float) -> str:
    """Such as 4.21 s, 3 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent_text(share: float) -> str:
    """A share in 0..1, such as 91.25 %."""
    return f"{100 * share:.2f} %"


def number_text(value: float) -> str:
    """Four significant digits, whole numbers in full with separators."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
