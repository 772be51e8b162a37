"""Cache files: a decoded data set in one safetensors file, shared by processes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from p2pfl.data.dataset import TENSORS, Dataset, Source, content_of_arrays, dataset_problem
from p2pfl.errors import DataError, one_line, unwritable
from p2pfl.util.files import check_regular

FORMAT = 2  # of the cache file; part of its name, so that a new format never reads an old file


def data_directory(data_dir: str | Path | None) -> Path:
    """Folder of downloads and cache files.

    --data-dir, or p2pfl in the user's cache folder. Raises DataError for the home of an unknown user.
    """
    if data_dir:
        try:
            return Path(data_dir).expanduser()
        except RuntimeError as error:  # an unknown user
            raise DataError(f"--data-dir {data_dir}: {error}; write the whole path") from None
    # The XDG specification has relative paths ignored.
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "p2pfl"


def cache_file(source: Source, root: Path) -> Path:
    """Path of a source's cache file."""
    return root / f"{source.key}-v{FORMAT}.safetensors"


def save(dataset: Dataset, path: Path) -> None:
    """Write the cache file atomically; two processes may do so at the same time.

    Raises DataError where the file cannot be written.
    """
    metadata = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "augment": dataset.augment,
        "notes": dataset.notes,
        "content": dataset.content or content_of_arrays(dataset),
        "owners": dataset.owners,
    }
    tensors = {name: getattr(dataset, name).contiguous() for name in TENSORS}
    if dataset.train_owners is not None:
        tensors["train_owners"] = dataset.train_owners
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, unfinished, metadata={"p2pfl": json.dumps(metadata)})
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{unwritable(path, error)}, or choose another --data-dir") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def load(path: Path) -> Dataset:
    """Map a cache file into memory; all processes share its pages.

    Raises DataError where the file is missing, damaged or of another kind.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {})["p2pfl"])
            owned = ("train_owners",) if metadata.get("owners") else ()
            tensors = {name: file.get_tensor(name) for name in (*TENSORS, *owned)}
        dataset = Dataset(
            name=str(metadata["name"]),
            classes=tuple(metadata["classes"]),
            mean=tuple(metadata["mean"]),
            std=tuple(metadata["std"]),
            augment=bool(metadata["augment"]),
            notes=tuple(metadata.get("notes", ())),
            content=str(metadata["content"]),
            owners=tuple(metadata.get("owners", ())),
            **tensors,
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such cached data set; prepare it again") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a cached data set ({one_line(error)}); delete it, and it is made again"
        ) from error
    problem = dataset_problem(dataset)
    if problem:
        raise DataError(f"{path}: {problem}; delete it, and it is made again")
    return dataset
