"""Record of a run's data set in its run directory."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from p2pfl.errors import ConfigError, UnreadableError, unwritable
from p2pfl.run.paths import DATA_FILE
from p2pfl.util.files import read_if_any, replace_file

DIGITS = 16  # of the digest, as in checkpoints


class DataRecord(msgspec.Struct, frozen=True):
    """Data set of a run: its --dataset, its content, its augmentation and its shards.

    `content`: the first digits of the content's digest. `augment`: whether training images are augmented. `shards`:
    digest of the samples of each shard; empty where it was not recorded.
    """

    dataset: str
    content: str
    augment: bool
    shards: str = ""


def read_data_record(run_dir: Path) -> DataRecord | None:
    """Read the record in a run directory; None if it is missing or damaged.

    Raises ConfigError for something else in its place, such as a folder, or a file that cannot be read.
    """
    try:
        return msgspec.json.decode(read_if_any(run_dir / DATA_FILE), type=DataRecord)
    except UnreadableError as error:
        raise ConfigError(str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def keep_data_record(run_dir: Path, found: DataRecord) -> None:
    """Record the data set of a new run, or check that of a resumed one.

    A resumed run's data set must have the same content, in whatever place. Raises ConfigError for other content, and
    where the file cannot be written.
    """
    before = read_data_record(run_dir)
    if before is not None and before.content != found.content:
        raise ConfigError(different_data(run_dir, before, found))
    if before is not None and before.shards != found.shards and "" not in (before.shards, found.shards):
        raise ConfigError(
            f"--partition: {run_dir} was trained on other shards of the same data ({before.shards}, now "
            f"{found.shards}); restore the file or function that deals them, or start a new run in another --run-dir"
        )
    if before == found:
        return
    path = run_dir / DATA_FILE
    try:
        replace_file(path, json.dumps(msgspec.structs.asdict(found), indent=2).encode() + b"\n", is_shared=True)
    except OSError as error:
        raise ConfigError(unwritable(path, error)) from None


def different_data(run_dir: Path, before: DataRecord, now: DataRecord) -> str:
    """Message about a data set that differs from the one in training, with remedy."""
    return (
        f"--dataset {now.dataset}: {run_dir} was trained on other data (content {before.content}, now {now.content}); "
        "restore those, or start a new run in another --run-dir"
    )
