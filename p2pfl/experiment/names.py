"""Names of the folders of a comparison's runs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

_VALUE_NAME = 40  # characters of an option's value in a name


def part_of_name(value: str) -> str:
    """Value of an option as a part of a folder's name; of a file its name."""
    kind, colon, rest = value.partition(":")
    plain = f"{kind}-{rest.rpartition('/')[2]}" if colon else kind
    return quote(plain, safe="")[:_VALUE_NAME]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names with a number where they would stand twice, such as those of files."""
    found: list[str] = []
    for plain in names:
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain}-{number}"
        found.append(name)
    return found
