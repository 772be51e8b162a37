"""Record of a process's shard: how many samples of each class it trains on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from p2pfl.errors import CheckpointError, unwritable
from p2pfl.run.paths import SHARD_FILE, peer_dirs
from p2pfl.topology import Topology
from p2pfl.util.files import read_if_any, replace_file

FORMAT = 1

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class ShardRecord(msgspec.Struct, frozen=True):
    """Samples of a shard by class, in the order of `classes`."""

    classes: list[str]
    counts: list[_Count]
    format: int = FORMAT

    @property
    def samples(self) -> int:
        """Samples of the shard."""
        return sum(self.counts)


def write_shard_record(peer_dir: Path, record: ShardRecord) -> None:
    """Write the record in a process's folder, unless it is there.

    Raises CheckpointError naming the file that cannot be written.
    """
    if read_shard_record(peer_dir) == record:
        return
    path = peer_dir / SHARD_FILE
    try:
        replace_file(path, json.dumps(msgspec.structs.asdict(record), ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None


def read_shard_record(peer_dir: Path) -> ShardRecord | None:
    """Read the record in a process's folder; None if there is none of this format."""
    try:
        found = msgspec.json.decode(read_if_any(peer_dir / SHARD_FILE), type=ShardRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    fits = found.format == FORMAT and len(found.classes) == len(found.counts) and found.samples > 0
    return found if fits else None


def recorded_sizes(run_dir: Path, topology: Topology, processes: int) -> list[int] | None:
    """Samples of the shards of the first so many processes; None where one is unknown."""
    return sizes_of([read_shard_record(folder) for folder in peer_dirs(run_dir, topology)[:processes]])


def sizes_of(records: Sequence[ShardRecord | None]) -> list[int] | None:
    """Samples of each shard; None where one is unknown."""
    known = [record for record in records if record is not None]
    return [record.samples for record in known] if len(known) == len(records) else None
