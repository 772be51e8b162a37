"""Interface of a directory, in which peers announce themselves and find neighbors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from p2pfl.errors import P2PFLError
from p2pfl.rendezvous.entry import Entry

if TYPE_CHECKING:
    from p2pfl.rendezvous.upload import Upload


class DirectoryError(P2PFLError):
    """Directory that cannot be used now; it is tried again."""


@dataclass(frozen=True)
class Found:
    """Answer of a directory.

    `entries`: those of neighbors, all or those changed since the last answer. `unreadable`: why others are of no use,
    by peer. `is_superseded`: another process has announced itself as this peer since. `replaced`: what was there of
    this peer before its first announcement, where that is known.
    """

    entries: tuple[Entry, ...] = ()
    unreadable: dict[int, str] = field(default_factory=dict)
    is_superseded: bool = False
    replaced: Entry | None = None


class Directory(Protocol):
    """Directory as one peer uses it, from one thread."""

    where: str
    """Path or address, for messages."""

    def exchange(self, own: Entry, neighbors: Collection[int], stopped: Callable[[], bool]) -> Found:
        """Announce this peer, and look for its neighbors.

        `stopped`: whether to give up early. Raises DirectoryError where that is not possible now, and ConfigError where
        it never will be.
        """

    def record(self, upload: Upload, stopped: Callable[[], bool]) -> bool:
        """Send the next part of this peer's records; False if there is none.

        Nor is there one where the directory keeps no records.

        Raises DirectoryError where that is not possible now, UploadRefusedError where they are not taken.
        """

    def occupant(self, own: Entry, stopped: Callable[[], bool]) -> Entry | None:
        """Entry of another process that is, or was, this peer. Raises DirectoryError."""

    def claim(self, own: Entry, other: Entry | None, stopped: Callable[[], bool]) -> bool:
        """Announce this peer in the place of `other`, or in an empty one.

        False, with nothing changed, where a third process has taken the place since. Raises as `exchange` does.
        """

    def withdraw(self, own: Entry) -> None:
        """Remove this process's entry, if it is there still. Raises DirectoryError."""

    def close(self) -> None:
        """Release what is held."""
