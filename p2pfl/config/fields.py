"""Fields of settings: their form in `--help` and the bounds of their values."""

from __future__ import annotations

import math
from typing import Any

import tyro

from p2pfl.errors import ConfigError
from p2pfl.registry import names_of


def unset(kind: str, default: str) -> Any:
    """Form of an option that may stay unset, for `--help`: kind of value and default."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


def one_of(option: str) -> Any:
    """Form of an option whose values are the names of a registry, for `--help`."""
    return tyro.conf.arg(metavar=f"{{{','.join(names_of(option))}}}")


def check(condition: bool, option: str, value: object, remedy: str) -> None:
    """Raise ConfigError naming the option and its value unless the condition holds."""
    if not condition:
        shown = str(value) if not isinstance(value, int) or abs(value) < 10**60 else "of that length"
        raise ConfigError(f"--{option.replace('_', '-')} {shown}: {remedy}")


def positive(section: object, most: float, *names: str) -> None:
    """Check that options are above 0 and at most `most`."""
    for name in names:
        value = getattr(section, name)
        if value is not None:
            _check_most(name, value, most)
            check(value > 0, name, value, "must be greater than 0")


def not_negative(section: object, most: float, *names: str) -> None:
    """Check that options are from 0 to `most`."""
    for name in names:
        value = getattr(section, name)
        if value is not None:
            _check_most(name, value, most)
            check(value >= 0, name, value, "must be 0 or more")


def _check_most(name: str, value: float, most: float) -> None:
    finite = isinstance(value, int) or math.isfinite(value)  # an int may be too large to become a float
    check(finite, name, value, f"must be a finite number, at most {most:,}")
    check(value <= most, name, value, f"must be at most {most:,}")


def is_count(text: str) -> bool:
    """Return whether this is a whole number of at most nine digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 9
