"""Text that other people chose, such as labels and names of files, made safe to be shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

# Characters that show nothing, or change how others are shown, whatever category Unicode puts them in.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_VARIATIONS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_HIDDEN = ("Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str, *, controls: bool = False) -> str:
    """The text with bidirectional controls and other invisible characters written as escapes, such as \\u202e.

    They can make a label look like another one, or turn around what stands beside it. `controls`: those of terminals
    (ESC, line ends) as well. What is stored keeps them.
    """
    if text.isascii() and not controls:
        return text
    return "".join(_escaped(c) if _is_hidden(c) or (controls and unicodedata.category(c) == "Cc") else c for c in text)


def some(texts: Iterable[str], most: int = 20, *, last: str = ", ") -> str:
    """The texts on one line, safe to be shown; of more than `most` only so many, and how many more there are.

    `last` stands before the last one where all are shown.
    """
    found = [visible(text, controls=True) for text in texts]
    more = len(found) - most
    if more > 0:
        return f"{', '.join(found[:most])} and {more:,} more"
    return last.join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else "".join(found)


@cache
def _is_hidden(character: str) -> bool:
    if character < "\x80":
        return False
    number = ord(character)
    varies = any(first <= number <= last for first, last in _VARIATIONS)
    control = 0x80 <= number < 0xA0  # the second set of control characters, with which some terminals can be led
    return control or varies or character in _BLANK or unicodedata.category(character) in _HIDDEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if character > "\x1f" else f"\\x{ord(character):02x}"
