"""Numbers with their units, as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))

MISSING = "–"


def byte_unit(count: float) -> tuple[int, str]:
    """The decimal unit in which a number of bytes is read best: its size and its name."""
    # 999.6 kB would be written as 1e+03 kB: three digits of it are 1 MB.
    return next((unit for unit in _BYTE_UNITS if count >= 0.9995 * unit[0]), _BYTE_UNITS[-1])


def bytes_text(count: float) -> str:
    """Such as 12.3 MB (10⁶ bytes)."""
    size, name = byte_unit(count)
    digits = ".3g" if size > 1 and count < 1000 * size else ",.0f"
    return f"{count / size:{digits}} {name}"


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


def _percent_spread(mean: float, std: float) -> str:
    return f"{100 * mean:.2f} ± {100 * std:.2f} %"


def _bytes_spread(mean: float, std: float) -> str:
    size, name = byte_unit(mean)
    if std < 0.005 * size:  # what changes no digit that is shown
        return bytes_text(mean)
    return f"{mean / size:.3g} ± {std / size:.2g} {name}"


def _seconds_spread(mean: float, std: float) -> str:
    return f"{mean:.3g} ± {std:.2g} s" if mean < 60 else f"{seconds_text(mean)} ± {seconds_text(std)}"


def _number_spread(mean: float, std: float) -> str:
    return f"{number_text(mean)} ± {std:,.0f}" if std >= 10 else f"{number_text(mean)} ± {std:.2g}"


def formats_of(field: str) -> tuple[Callable[[float], str], Callable[[float, float], str]]:
    """How a number of a summary is written, by its field's name; and how a mean with its standard deviation is."""
    if field.endswith("accuracy"):
        return percent_text, _percent_spread
    if field.endswith("seconds"):
        return seconds_text, _seconds_spread
    if "bytes" in field:
        return bytes_text, _bytes_spread
    return number_text, _number_spread


def words(value: Any) -> str:
    """A field of a summary that is no number: a name, a list, names with versions, or a span as [first, last]."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(of)}" for name, of in value.items()) or MISSING
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(end, int) for end in value):
            return str(value[0]) if value[0] == value[1] else f"{value[0]}–{value[1]}"
        return ("; " if any(isinstance(item, Mapping) for item in value) else ", ").join(map(words, value)) or "none"
    return MISSING if value is None else str(value)
