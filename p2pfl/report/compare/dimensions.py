"""Dimensions of a comparison: its entries as a grid of methods and partitions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from p2pfl.report.compare.group import Entry, method_of, partition_of


@dataclass(frozen=True)
class GridRow:
    """Method, a topology or mode with its algorithm, and its entries by column."""

    place: str
    algorithm: str | None
    label: str
    cells: tuple[Entry | None, ...]


@dataclass(frozen=True)
class Grid:
    """Methods as rows, partitions as columns.

    `is_complete`: each method that has shards was run with every partition, so that columns can be compared.
    """

    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]

    @property
    def is_complete(self) -> bool:
        return all(None not in row.cells for row in self.rows)

    @property
    def varies(self) -> bool:
        """Whether there is more to it than one column of a single algorithm."""
        return len(self.columns) > 1 or len({row.algorithm for row in self.rows} - {None}) > 1


def place_of(entry: Entry) -> str:
    """Topology of a gossip entry, or mode of another."""
    return entry.name


def algorithm_of(entry: Entry) -> str | None:
    """Gossip algorithm of an entry; None in other modes."""
    return entry.config.gossip.algorithm if entry.mode.mixes else None


def column_of(entry: Entry) -> str | None:
    """Partition of an entry's shards; None for pooled data."""
    return None if entry.mode.pools_data else entry.partition


def grid_of(entries: Sequence[Entry]) -> Grid:
    """Arrange entries in a grid, rows and columns in the order of their first entries.

    Pooled data have no partition, so an entry of theirs stands in the column of the partition that it was matched with,
    and where it is the only one of its method, in all columns.
    """
    keys = list(dict.fromkeys(partition_of(e.runs[0]) for e in entries if not e.mode.pools_data))
    keys = keys or [partition_of(entries[0].runs[0])]
    titles: dict[Hashable, str] = {partition_of(e.runs[0]): e.partition for e in entries}
    methods = _methods(entries)
    rows = []
    for found in methods.values():
        cells = {partition_of(entry.runs[0]): entry for entry in found}
        first = found[0]
        pooled = first if first.mode.pools_data and len(found) == 1 else None
        row = tuple(cells.get(key, pooled) for key in keys)
        rows.append((first, row))
    labels = _row_labels([first for first, _ in rows])
    return Grid(
        tuple(titles[key] for key in keys),
        tuple(
            GridRow(place_of(first), algorithm_of(first), label, row)
            for label, (first, row) in zip(labels, rows, strict=True)
        ),
    )


def _methods(entries: Sequence[Entry]) -> dict[Hashable, list[Entry]]:
    """Entries by method; where one has several learning rates, each is a method."""
    keys: tuple[Callable[[Entry], Hashable], ...] = (method_of, lambda entry: (method_of(entry), entry.label))
    for key in keys:
        found: dict[Hashable, list[Entry]] = {}
        for entry in entries:
            found.setdefault(key(entry), []).append(entry)
        if all(len({partition_of(e.runs[0]) for e in own}) == len(own) for own in found.values()):
            break
    return found


def _row_labels(firsts: Sequence[Entry]) -> list[str]:
    """Place, and algorithm if it varies; the whole label where that is not unique."""
    varies = len({algorithm_of(entry) for entry in firsts} - {None}) > 1
    short = [
        f"{place_of(entry)}, {algorithm_of(entry)}" if varies and algorithm_of(entry) else place_of(entry)
        for entry in firsts
    ]
    return [label if short.count(label) == 1 else entry.label for label, entry in zip(short, firsts, strict=True)]


def matching_groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that are to match each other.

    Those of each partition where every method was run with every partition, all otherwise.
    """
    grid = grid_of(entries)
    if len(grid.columns) < 2 or not grid.is_complete:
        return [list(entries)]
    groups: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(partition_of(entry.runs[0]), []).append(entry)
    return list(groups.values())
