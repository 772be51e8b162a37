"""Arguments of --partition, checked before any data are read."""

from __future__ import annotations

import math

from p2pfl import registry
from p2pfl.config.fields import check, is_count

LEAST_ALPHA, MOST_ALPHA = 1e-4, 1e6
GROWTHS = ("linear", "square", "exponential")
_WHOLE = ("K", "S")  # metavars of whole numbers


def checked_partition(value: str) -> str:
    """Check a partition and return it in its one spelling.

    Settings are compared as text. Raises ConfigError for an unknown name, and for an argument that is missing, not
    wanted or out of range.
    """
    registry.check("partition", value)
    name, colon, argument = value.partition(":")
    entry = registry.entry_of("partition", value)
    if entry is None or not entry.argument:
        return value
    check(colon != "" and argument != "", "partition", value, f"write it as {name}:{entry.argument}")
    if entry.argument in _WHOLE:
        is_whole = argument.isascii() and argument.isdecimal()
        check(
            is_whole and argument.strip("0") != "",
            "partition",
            value,
            f"{entry.argument} must be a whole number above 0",
        )
        check(is_count(argument), "partition", value, f"{entry.argument} is too large; choose a smaller number")
        return f"{name}:{int(argument)}"
    growths = GROWTHS if "|" in entry.argument else ()
    if entry.argument.startswith("ALPHA") and argument not in growths:
        alpha = _number(argument)
        span = f"from {LEAST_ALPHA:g} to {MOST_ALPHA:,.0f}"
        others = f", or one of {', '.join(growths)}" if growths else ""
        known = LEAST_ALPHA <= alpha <= MOST_ALPHA
        check(known, "partition", value, f"ALPHA must be a number {span}, such as 0.5{others}")
        return f"{name}:{int(alpha) if alpha.is_integer() else repr(alpha)}"
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
