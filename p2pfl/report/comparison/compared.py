"""What was compared, and what a reader must know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2pfl.report.comparison.entries import Entry
from p2pfl.report.comparison.matching import Mismatch


@dataclass(frozen=True)
class Comparison:
    """What was compared and where it is written; `mismatches` is empty where the runs are matched."""

    folder: Path
    entries: tuple[Entry, ...]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]
    command: str = ""

    @property
    def apart(self) -> frozenset[str]:
        """Labels of the entries that do not match the others."""
        return frozenset(label for mismatch in self.mismatches for label in mismatch.labels)

    def signs(self, label: str) -> str:
        """The numbers of the mismatches that concern an entry, such as 1 2; empty if there are none."""
        return " ".join(str(n) for n, mismatch in enumerate(self.mismatches, 1) if label in mismatch.labels)
