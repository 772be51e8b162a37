"""Text for people: foreign names made safe to show, suggestions for typing errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

# Characters that show nothing or change how others are shown, in any category of Unicode.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_VARIATIONS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_HIDDEN = ("Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str, *, controls: bool = False) -> str:
    """Escape bidirectional controls and other invisible characters, as \\u202e.

    They can make a label look like another one, or turn around what stands beside it. `controls`: those of terminals
    (ESC, line ends) as well. Stored text keeps them.
    """
    if text.isascii() and not controls:
        return text
    return "".join(_escaped(c) if _is_hidden(c) or (controls and unicodedata.category(c) == "Cc") else c for c in text)


def shortened(text: str, width: int) -> str:
    """Text cut in its middle, as similar labels begin with the same words."""
    tail = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def some(texts: Iterable[str], most: int = 20, *, last: str = ", ") -> str:
    """Join texts on one line, safe to show; at most `most`, and a count of the rest.

    `last` stands before the last one where all are shown.
    """
    found = [visible(text, controls=True) for text in texts]
    more = len(found) - most
    if more > 0:
        return f"{', '.join(found[:most])} and {more:,} more"
    return last.join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else "".join(found)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Known word nearest to a misspelled one; None if none is near.

    Near are words that begin with `word`, have it as a part, or differ from it in two or so characters. Of several the
    nearest, and of these the shortest. Dashes and underscores are the same.
    """
    plain = _plain(word)
    if not plain:
        return None
    ranked = [(*rank, len(name), name) for name in known if (rank := _rank(plain, _plain(name))) is not None]
    return min(ranked)[-1] if ranked else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggestion at the end of a message; empty if no known word is near."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def known_are(word: str, known: Iterable[str]) -> str:
    """End of a message about an unknown word: a suggestion, and all known words."""
    known = list(known)
    near = did_you_mean(word, known)
    return f"{near} Known are {', '.join(known)}" if near else f"; known are {', '.join(known)}"


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


def _plain(word: str) -> str:
    return word.strip("-").replace("_", "-").lower()


def _rank(word: str, name: str) -> tuple[int, int] | None:
    slips = _slips(word, name)
    if slips <= 1:
        return 0, slips
    if name.startswith(word):
        return 1, 0
    if slips <= max(1, min(3, len(word) // 2)):
        return 2, slips
    if len(word) > 2 and any(_slips(word, part) <= 1 for part in name.split("-")):
        return 3, 0
    return None


def _slips(a: str, b: str) -> int:
    """Edit distance: characters left out, added, replaced or swapped with the next.

    Optimal string alignment distance.
    """
    if abs(len(a) - len(b)) > len(a):
        return max(len(a), len(b))
    before, above = list(range(len(b) + 1)), list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
