"""The known word that a misspelled one most likely stands for."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that begins with `word`, is within two or so slips of it, or has it as a part; None if none is.

    Of several the nearest, and of these the shortest. Dashes and underscores are the same.
    """
    plain = _plain(word)
    if not plain:
        return None
    ranked = [(*rank, len(name), name) for name in known if (rank := _rank(plain, _plain(name))) is not None]
    return min(ranked)[-1] if ranked else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The same as the end of a message; empty where nothing is near."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def known_are(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: what it may stand for, and all that is known."""
    known = list(known)
    near = did_you_mean(word, known)
    return f"{near} Known are {', '.join(known)}" if near else f"; known are {', '.join(known)}"


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
    """Letters left out, added, mistaken or swapped with the next one (optimal string alignment distance)."""
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
