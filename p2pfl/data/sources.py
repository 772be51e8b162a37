"""Data sets by name: description of each, and preparation of its cache file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2pfl import registry
from p2pfl.config import PictureOptions
from p2pfl.data.cache import cache_file, data_directory, load, save
from p2pfl.data.dataset import IMAGE_SIDE, Progress, Source
from p2pfl.data.user import user_function

Opener = Callable[[str, Path, PictureOptions], Source]
"""A data set of the registry: the argument after the colon of --dataset, the data directory and the options of
pictures in, its source out; it reads no image yet."""

_PLAIN = PictureOptions()


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set, known without decoding it.

    `cached`: whether it is decoded already. `notes`: oddities, a line each, those that only decoding shows if it is
    decoded. `needs_decoding`: whether only decoding will tell if it can be used. `is_mirrored`: a user's own data that
    are augmented unless `--augment` says otherwise. `needs_download`: before it can be decoded.
    """

    name: str
    train_samples: int
    test_samples: int
    classes: tuple[str, ...]
    image_side: int
    cached: bool
    notes: tuple[str, ...] = ()
    needs_decoding: bool = False
    is_mirrored: bool = False
    needs_download: bool = False


def prepare(spec: str, data_dir: str | Path | None, progress: Progress, pictures: PictureOptions = _PLAIN) -> Path:
    """Make the cache file of the data set `--dataset`, unless it exists.

    `data_dir` holds downloads and cache files (default: `p2pfl` in the user's cache directory). `progress` is
    called with what is being done, how much is done, and the total. `pictures` matters to an image folder only.
    Raises ConfigError for a name that cannot be used, DataError for data that cannot.
    """
    root = data_directory(data_dir)
    source = _find(spec, root, pictures)
    path = cache_file(source, root)
    if not path.exists():
        save(source.read(progress), path)
    return path


def describe(spec: str, data_dir: str | Path | None, pictures: PictureOptions = _PLAIN) -> DatasetInfo:
    """Describe the data set `--dataset` without downloading, decoding or writing.

    A `module:function` is called for it. Raises what `prepare` does for a name, directory or function that cannot be
    used.
    """
    root = data_directory(data_dir)
    source = _find(spec, root, pictures)
    path = cache_file(source, root)
    cached = path.exists()
    notes = list(source.notes)
    if len(source.classes) == 1:
        notes.append("there is only one class, so that every model is always right")
    return DatasetInfo(
        name=source.name,
        train_samples=source.train_samples,
        test_samples=source.test_samples,
        classes=source.classes,
        image_side=IMAGE_SIDE,
        cached=cached,
        notes=(*notes, *(load(path).notes if cached else ())),
        needs_decoding=source.is_judged_by_reading and not cached,
        is_mirrored=source.is_mirrored,
        needs_download=source.needs_download and not cached,
    )


def all_notes(info: DatasetInfo, path: Path) -> tuple[str, ...]:
    """All notes on a data set: those of its description and of its cache file `path`."""
    return tuple(dict.fromkeys((*info.notes, *load(path).notes)))


def _find(spec: str, root: Path, pictures: PictureOptions) -> Source:
    entry = registry.entry_of("dataset", spec)
    if entry is None:
        registry.check("dataset", spec)
        return user_function(spec)
    open_source: Opener = registry.load(entry)
    return open_source(spec.partition(":")[2], root, pictures)
