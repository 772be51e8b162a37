"""Recovery line: the checkpoints from which the peers of a stopped run continue.

Peers that save a checkpoint after each round continue each from its own newest: one that is ahead of a neighbor has
saved what it sent in each of the rounds between. With several rounds between two checkpoints nobody has that, so peers
go back until no neighbor lacks anything, usually to the newest round that all have. What they had saved later is
removed, as they compute it again.

The processes of a centralized run continue together after the newest round of the coordinator, or after the one before,
where a client has not saved its part in that.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from p2pfl.errors import CheckpointError, UnreadableError, is_missing, unwritable
from p2pfl.run.checked_file import is_whole, read_about
from p2pfl.run.identity import run_id_of
from p2pfl.run.paths import CHECKPOINT_NAME, CHECKPOINTS_FOLDER
from p2pfl.run.records import decode_record
from p2pfl.run.repair import repair
from p2pfl.util.files import sync_folder


@dataclass(frozen=True)
class Saved:
    """Checkpoints of one peer, by round.

    `every`: rounds between two, as the newest says. `is_known`: false where some cannot be read now, of which the peer
    itself will tell.
    """

    files: Mapping[int, Path] = field(default_factory=dict)
    every: int = 1
    is_known: bool = True

    @property
    def newest(self) -> int:
        return max(self.files, default=0)

    @property
    def rounds(self) -> set[int]:
        """Rounds after which it can continue: also 0, if nothing was removed yet."""
        return {*self.files, *([0] if min(self.files, default=0) <= self.every else [])}


@dataclass(frozen=True)
class RecoveryLine:
    """Round after which each peer continues, and the newest that it has saved."""

    rounds: Sequence[int]
    newest: Sequence[int]

    @property
    def lowered(self) -> list[int]:
        """Peers that go back behind their newest checkpoint."""
        return [peer for peer, round in enumerate(self.rounds) if round < self.newest[peer]]


def find_recovery_line(
    run_dir: Path,
    folders: Sequence[Path],
    names: Sequence[str],
    links: Sequence[Collection[int]],
    at_most: int,
    ahead: int = 1,
) -> RecoveryLine | None:
    """Find the rounds from which the peers of a stopped run continue.

    None where some checkpoints cannot be read now. `folders`, `names`: of the peers, by number. `at_most`: the round
    after which they may continue at the latest. `ahead`: rounds by which one may be ahead of a neighbor on disk. With a
    checkpoint after each round that is each one's newest. Else all bytes of those that are chosen are checked; of
    others only the headers are read.
    """
    saved = [_saved_by(run_dir, folder, names[peer], peer, at_most) for peer, folder in enumerate(folders)]
    if not all(one.is_known for one in saved):
        return None
    newest = [one.newest for one in saved]
    if all(one.every == 1 for one in saved):
        return RecoveryLine(newest, newest)
    pairs = _constraints(saved, links, ahead)  # as they were stopped, whatever is damaged
    while True:
        rounds = consistent_rounds([one.rounds for one in saved], pairs)
        damaged = [peer for peer, round in enumerate(rounds) if round and not _is_usable(saved[peer].files[round])]
        if not damaged:
            return RecoveryLine(rounds, [one.newest for one in saved])
        for peer in damaged:
            files = {number: path for number, path in saved[peer].files.items() if number != rounds[peer]}
            saved[peer] = Saved(files, saved[peer].every)


def find_common_line(
    run_dir: Path, folders: Sequence[Path], names: Sequence[str], coordinator: int, at_most: int
) -> RecoveryLine | None:
    """Find the round from which all processes of a stopped centralized run continue.

    None: the coordinator's newest that can be used. Unless a client took part in that round and was stopped before it
    had saved its part, or what it saved cannot be used: then the one before, if that is kept. Arguments are as in
    `find_recovery_line`.
    """
    saved = [_saved_by(run_dir, folder, names[index], index, at_most) for index, folder in enumerate(folders)]
    if not all(one.is_known for one in saved):
        return None
    own = saved[coordinator].files
    usable = (number for number in sorted(own, reverse=True) if _is_usable(own[number]))
    last = next(usable, 0)
    if not last or all(_has_saved(saved[names.index(client)], last) for client in _took_part(own[last], names)):
        return None
    before = next(usable, 0)
    return RecoveryLine([before] * len(saved), [one.newest for one in saved]) if before else None


def _has_saved(saved: Saved, round: int) -> bool:
    return round in saved.files and _is_usable(saved.files[round])


def _took_part(path: Path, names: Collection[str]) -> set[str]:
    """Clients with an update in the round of a coordinator's checkpoint."""
    try:
        record = decode_record(str(_about(path).get("record")).encode())
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return set()
    return (set(record.selected or ()) - set(record.missing or ())) & set(names)


def newest_round(folders: Iterable[Path]) -> int:
    """Newest round with a checkpoint file of any of these peers, intact or not; or 0."""
    found = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            found = max([found, *(number for number, _ in _numbered(folder / CHECKPOINTS_FOLDER))])
    return found


def consistent_rounds(saved: Sequence[Collection[int]], edges: Iterable[tuple[int, int]]) -> list[int]:
    """Newest rounds from which all peers can continue together.

    Of two neighbors the one that is ahead must have saved all rounds by which it is, or goes back. Where it has nothing
    to go back to, the other joins it as it can. 0 stands for the initial weights.

    Examples:
        >>> consistent_rounds([{5, 10}, {5, 10}, {5}], [(0, 1), (1, 2)])
        [5, 5, 5]
        >>> consistent_rounds([{11, 12}, {10, 11}], [(0, 1)])
        [12, 11]
    """
    rounds = [max(own, default=0) for own in saved]
    left, is_settled = list(edges), False
    while not is_settled:
        is_settled = True
        for pair in list(left):
            behind, ahead = sorted(pair, key=rounds.__getitem__)
            low, high = rounds[behind], rounds[ahead]
            if all(number in saved[ahead] for number in range(low + 1, high)):
                continue
            is_settled = False
            if fits := _served_from(saved[ahead], low):
                rounds[ahead] = max(fits)
            else:
                left.remove(pair)
    return rounds


def _served_from(saved: Collection[int], low: int) -> list[int]:
    """Rounds from which a peer can serve a neighbor that continues after round `low`."""
    fits = [number for number in saved if number <= low]
    while low + 1 in saved:
        low += 1
        fits.append(low)
    return fits


def _constraints(saved: Sequence[Saved], links: Sequence[Collection[int]], ahead: int) -> list[tuple[int, int]]:
    """Pairs of neighbors that exchanged when they were stopped.

    Their newest checkpoints show it. One that was away before, or has lost its files, joins the others as it can.
    """
    found = []
    for peer, own in enumerate(links):
        for other in (link for link in own if link > peer):
            pair = saved[peer], saved[other]
            every = max(one.every for one in pair)
            apart = abs(pair[0].newest - pair[1].newest)
            if apart < ahead + every:  # the last training round is saved whatever its number
                found.append((peer, other))
    return found


def _saved_by(run_dir: Path, folder: Path, name: str, index: int, at_most: int) -> Saved:
    """Checkpoints whose headers are this peer's, up to a round."""
    try:
        run = run_id_of(run_dir, folder)
        numbered = _numbered(folder / CHECKPOINTS_FOLDER)
        described = {number: (path, _about(path)) for number, path in numbered if number <= at_most}
    except (OSError, CheckpointError):  # its own process says what cannot be read now
        return Saved(is_known=False)
    expected = {"peer": name, "index": index} | ({"run": run} if run else {})
    own = {n: one for n, one in described.items() if {"round": n, **expected}.items() <= one[1].items()}
    every = own[max(own)][1].get("every") if own else 1
    return Saved({n: path for n, (path, _) in own.items()}, every if isinstance(every, int) and every > 0 else 1)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint files with their rounds; none without a folder. Raises OSError."""
    try:
        matches = [CHECKPOINT_NAME.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        if is_missing(folder, error) or isinstance(error, NotADirectoryError):
            return []
        raise
    return sorted((int(match[1]), folder / match[0]) for match in matches if match)


def _about(path: Path) -> Mapping[str, object]:
    """Description in a checkpoint's header; empty if damaged. Raises OSError."""
    try:
        about = json.loads(read_about(path)["p2pfl"])
    except (ValueError, KeyError, RecursionError, IsADirectoryError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_usable(path: Path) -> bool:
    try:
        return is_whole(path)
    except UnreadableError:
        return True  # its own process says so, and nothing is lost
    except CheckpointError:
        return False


def go_back(line: RecoveryLine, folders: Sequence[Path], *, sketched: bool) -> None:
    """Remove what peers have saved after the rounds to which they go back.

    A crash amid this leaves the same recovery line. Raises CheckpointError naming the file that cannot be written.
    """
    for peer in line.lowered:
        round, folder = line.rounds[peer], folders[peer]
        try:
            later = [item for item in _numbered(folder / CHECKPOINTS_FOLDER) if round < item[0] <= line.newest[peer]]
            for _, path in reversed(later):
                path.unlink()
            sync_folder(folder / CHECKPOINTS_FOLDER)
        except OSError as error:
            raise CheckpointError(unwritable(folder / CHECKPOINTS_FOLDER, error)) from None
        if round == 0:
            repair(folder, 0, sketched=sketched)
