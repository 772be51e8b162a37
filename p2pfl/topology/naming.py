"""Names of peers: labels where all nodes have different ones, else ids."""

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
    """Names of the peers, by node in file order, and a note on the choice."""

    names: tuple[str, ...]
    by_labels: bool
    note: str | None = None


def name_nodes(raw: RawGraph) -> Naming:
    """Choose the names of the peers. Ids that cannot be names are not refused here."""
    ids = tuple(node.id for node in raw.nodes)
    labels = [clean_label(node.label) for node in raw.nodes]
    if all(label is None or label == own for label, own in zip(labels, ids, strict=True)):
        return Naming(ids, by_labels=False)
    reason = _why_not(ids, labels)
    if reason is not None:
        return Naming(ids, by_labels=False, note=f"peers are named by their ids, not by their labels: {reason}")
    names = tuple(label for label in labels if label is not None)
    # The ids of GML only connect its edges; no user expects them as names.
    note = None if raw.format == "GML" else f"peers are named by their labels ({few(names)}), not by their ids"
    return Naming(names, by_labels=True, note=note)


def _why_not(ids: Sequence[str], labels: Sequence[str | None]) -> str | None:
    """Reason for which the labels cannot be names; None if they can."""
    for own, label in zip(ids, labels, strict=True):
        if label is None:
            return f"node {shorten(own)!r} has none"
        if (flaw := name_flaw(label)) is not None:
            return f"{shorten(label)!r} {flaw}"
    label, count = Counter(labels).most_common(1)[0]
    return f"{count} nodes are labeled {shorten(label or '')!r}" if count > 1 else None


def unique_names(raw: RawGraph) -> tuple[str, ...]:
    """Unique name for each node: its label, if that can be a name, else its id.

    A name that another node has already gets a number, as in 'x (2)'.
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
    """Name with a number, shortened where it would be too long."""
    while name and name_flaw(f"{name} ({number})") == "is too long":
        name = name[:-1]
    return f"{name} ({number})"


def usable_label(label: str | None) -> str | None:
    """Label cleaned for use as a name; None where it cannot be one."""
    cleaned = clean_label(label)
    return None if cleaned is None or name_flaw(cleaned) else cleaned


def clean_label(label: str | None) -> str | None:
    """Label on one line; None where nothing of it is visible."""
    if label is None or not label.strip():
        return None
    lines = _BREAKS.split(label)
    return label if len(lines) == 1 else " ".join(line.strip() for line in lines if line.strip())


def name_flaw(name: str) -> str | None:
    """Reason for which a text cannot be a peer's name; None if it can."""
    if not name.strip():
        return "is empty"
    if unprintable(name):
        return "contains control characters"
    if len(percent_encode(name)) > MAX_LABEL_BYTES:
        return "is too long"
    return None


def unprintable(text: str) -> bool:
    """Return whether a text has control characters, lone surrogates or the like.

    Such text survives neither XML nor a terminal.
    """
    if text.isascii():
        return any(c < " " or c == "\x7f" for c in text)
    return any(c in "\ufeff\ufffe\uffff" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def percent_encode(label: str) -> str:
    """Label percent-encoded, as a path component."""
    if label in (".", ".."):
        return label.replace(".", "%2E")
    return quote(label, safe="", errors="surrogatepass")


def natural_key(label: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key of the natural order, in which '10' comes after '2'."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts), label


def shorten(text: str) -> str:
    """Text for a message, cut where it is very long."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def few(texts: Iterable[str], *, quoted: bool = True) -> str:
    """First few of some texts, for a message, and the number of the others."""
    return some((repr(shorten(text)) if quoted else text for text in texts), _SHOWN, last=" and ")
