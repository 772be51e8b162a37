"""The data set that a run is trained on, as its run directory records it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from p2pfl.errors import ConfigError, unwritable
from p2pfl.run.paths import DATA_FILE
from p2pfl.util.files import read_if_any, replace_file

DIGITS = 16  # of the digest, as in checkpoints


class DataRecord(msgspec.Struct, frozen=True):
    """What --dataset said, the first digits of its content's digest, and whether training images are augmented."""

    dataset: str
    content: str
    augment: bool


def read_data_record(run_dir: Path) -> DataRecord | None:
    """The record in a run directory; None where there is none yet, or a damaged one. Raises UnreadableError."""
    try:
        return msgspec.json.decode(read_if_any(run_dir / DATA_FILE), type=DataRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def keep_data_record(run_dir: Path, found: DataRecord) -> None:
    """Record the data set of a run that begins; one that is resumed must have the same content, wherever it lies.

    Raises ConfigError where it has other content, or the file cannot be written.
    """
    before = read_data_record(run_dir)
    if before is not None and before.content != found.content:
        raise ConfigError(different_data(run_dir, before, found))
    if before == found:
        return
    path = run_dir / DATA_FILE
    try:
        replace_file(path, json.dumps(msgspec.structs.asdict(found), indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(unwritable(path, error)) from None


def different_data(run_dir: Path, before: DataRecord, now: DataRecord) -> str:
    """That a data set is not the one that a run was trained on, and the remedy."""
    return (
        f"--dataset {now.dataset}: {run_dir} was trained on other data (content {before.content}, now {now.content}); "
        "bring those back, or start a new run in another --run-dir"
    )
