"""Image folders that hold one folder for each peer, with its own pictures.

DIR/PEER/train/CLASS/… are the peer's training pictures. DIR/test/CLASS/… and DIR/PEER/test/CLASS/… are the test set
of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pfl.data.image_listing import (
    Samples,
    check_forms,
    classes_of,
    counted_pictures,
    folders_in,
    lacking_images,
    pictures_below,
    samples_of,
    unlisted_text,
)
from p2pfl.errors import DataError
from p2pfl.util.text import some

HALVES = ("train", "test")


@dataclass(frozen=True)
class PeerFolders:
    """Pictures of all peers.

    classes: those of any peer, in alphabetical order. owners: the peers' labels. places: for each training sample the
    place of its owner. notes: oddities, a line each.
    """

    classes: tuple[str, ...]
    train: Samples
    test: Samples
    owners: tuple[str, ...]
    places: tuple[int, ...]
    notes: tuple[str, ...]


def list_peer_folders(directory: Path) -> PeerFolders:
    """List the pictures of all peers, with their class names united.

    Raises DataError where no folder holds train/, a peer has no picture, or there is no test picture of a known class.
    """
    folders = folders_in(directory)
    peers = [name for name in folders if (directory / name / "train").is_dir()]
    if not peers:
        there = f" (there are {some(folders)})" if folders else ""
        raise DataError(f"{directory}: no folder PEER/train/CLASS of any peer{there}; --partition own needs them")
    classes = sorted({name for peer in peers for name in classes_of(directory / peer, "train")})
    halves = [directory / "test"] + [directory / peer / "test" for peer in peers]
    tested = sorted({name for half in halves if half.is_dir() for name in classes_of(half.parent, "test")})
    check_forms(directory, tuple(classes), tuple(tested))
    foreign = sorted(set(tested) - set(classes))
    if foreign:
        raise DataError(f"{directory}: no peer has training pictures of class {some(map(repr, foreign))} in test/")
    train: Samples = []
    places: list[int] = []
    unused: list[str] = []
    for place, peer in enumerate(peers):
        found, others = samples_of(directory / peer / "train", tuple(classes))
        if not found:
            folder = directory / peer / "train"
            raise DataError(f"{folder}: no picture in any class folder; put pictures there, or remove {folder}/")
        train += found
        places += [place] * len(found)
        unused += others
    test: Samples = []
    for half in halves:
        if half.is_dir():
            found, others = samples_of(half, tuple(classes))
            test += found
            unused += others
    if not test:
        raise DataError(f"{directory / 'test'}: no picture in any class folder; put pictures of each class there")
    lacking = [name for label, name in enumerate(classes) if label not in {of for _, of in test}]
    notes = [lacking_images("test", lacking)] if lacking else []
    notes += [*_unused_folders(directory, folders, peers), *unlisted_text(directory, unused)]
    return PeerFolders(tuple(classes), train, test, tuple(peers), tuple(places), tuple(notes))


def _unused_folders(directory: Path, folders: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Note on pictures outside of all train/ of peers and test/, as in DIR/train."""
    others = [name for name in folders if name not in (*peers, "test")]
    others += [f"{peer}/{name}" for peer in peers for name in folders_in(directory / peer) if name not in HALVES]
    counts = {name: count for name in others if (count := pictures_below(directory / name))}
    if not counts:
        return []
    listed = some(f"{name}/ ({counted_pictures(count)})" for name, count in counts.items())
    return [f"with --partition own, pictures outside of PEER/train/, PEER/test/ and test/ are not used: {listed}"]
