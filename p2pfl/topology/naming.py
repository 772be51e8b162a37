"""Names of peers: labels where every node has one and all differ, else ids."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from p2pfl.topology.raw import RawGraph
from p2pfl.util.text import some

MAX_LABEL_BYTES = 200  # percent-encoded: a path component is limited to 255 bytes
_SHOWN = 3
_LONGEST = 60
_BREAKS = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029]+")


@dataclass(frozen=True)
class Naming:
    """The peers' names, by node in file order, and what a user must know about the choice."""

    names: tuple[str, ...]
    by_labels: bool
    note: str | None = None


def name_nodes(raw: RawGraph) -> Naming:
    """The names that the peers of a file get. An id that cannot be a name is not refused here."""
    ids = tuple(node.id for node in raw.nodes)
    labels = [clean_label(node.label) for node in raw.nodes]
    if all(label is None or label == own for label, own in zip(labels, ids, strict=True)):
        return Naming(ids, by_labels=False)
    reason = _why_not(ids, labels)
    if reason is not None:
        return Naming(ids, by_labels=False, note=f"peers are named by their ids, not by their labels: {reason}")
    names = tuple(label for label in labels if label is not None)
    # The ids of GML only connect its edges: nobody expects them as names.
    note = None if raw.format == "GML" else f"peers are named by their labels ({few(names)}), not by their ids"
    return Naming(names, by_labels=True, note=note)


def _why_not(ids: Sequence[str], labels: Sequence[str | None]) -> str | None:
    """Why the labels cannot be names; None if they can."""
    for own, label in zip(ids, labels, strict=True):
        if label is None:
            return f"node {short(own)!r} has none"
        if (flaw := name_flaw(label)) is not None:
            return f"{short(label)!r} {flaw}"
    label, count = Counter(labels).most_common(1)[0]
    return f"{count} nodes are labeled {short(label or '')!r}" if count > 1 else None


def unique_names(raw: RawGraph) -> tuple[str, ...]:
    """A different name for each node: its label, where that can be a name, else its id.

    What another node has already gets a number, as in 'x (2)'.
    """
    wanted = [usable_label(node.label) or node.id for node in raw.nodes]
    reserved = set(wanted)
    taken: set[str] = set()
    last: Counter[str] = Counter()
    names = []
    for name in wanted:
        chosen = name
        while chosen in taken or (chosen != name and chosen in reserved):
            last[name] += 1
            chosen = _numbered(name, last[name] + 1)
        taken.add(chosen)
        names.append(chosen)
    return tuple(names)


def _numbered(name: str, number: int) -> str:
    """The name with a number, shortened where it would be too long."""
    while name and name_flaw(f"{name} ({number})") == "is too long":
        name = name[:-1]
    return f"{name} ({number})"


def usable_label(label: str | None) -> str | None:
    """A label that can be a name; None where it cannot."""
    cleaned = clean_label(label)
    return None if cleaned is None or name_flaw(cleaned) else cleaned


def clean_label(label: str | None) -> str | None:
    """A label on one line; None where there is nothing to see."""
    if label is None or not label.strip():
        return None
    lines = _BREAKS.split(label)
    return label if len(lines) == 1 else " ".join(line.strip() for line in lines if line.strip())


def name_flaw(name: str) -> str | None:
    """What keeps a text from being a peer's name; None if it can be one."""
    if not name.strip():
        return "is empty"
    if unprintable(name):
        return "contains control characters"
    if len(encode(name)) > MAX_LABEL_BYTES:
        return "is too long"
    return None


def unprintable(text: str) -> bool:
    """Whether a text holds what survives neither XML nor a terminal: control characters, lone surrogates, …"""
    if text.isascii():
        return any(c < " " or c == "\x7f" for c in text)
    return any(c in "\ufeff\ufffe\uffff" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def encode(label: str) -> str:
    """A label percent-encoded, as a path component."""
    if label in (".", ".."):
        return label.replace(".", "%2E")
    return quote(label, safe="", errors="surrogatepass")


def natural(label: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """The key of the natural order, in which '10' comes after '2'."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts), label


def short(text: str) -> str:
    """A text for a message, cut where it is very long."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def few(texts: Iterable[str], *, quoted: bool = True) -> str:
    """A few of these texts, for a message, and how many more there are."""
    return some((repr(short(text)) if quoted else text for text in texts), _SHOWN, last=" and ")
