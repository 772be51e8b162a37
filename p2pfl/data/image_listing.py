"""Files of an image folder: classes, their pictures, unused files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pfl.data.pictures import extensions
from p2pfl.errors import DataError, unreadable
from p2pfl.util.text import some, visible

_CLUTTER = frozenset({"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_WELL_KNOWN = frozenset({".ipynb_checkpoints", ".thumbnails", ".appledouble", ".git", ".svn", ".cache", ".tmp"})
_TRASH = ".trash"  # how the names of trash folders begin

Samples = list[tuple[str, int]]  # path, label


@dataclass(frozen=True)
class Split:
    """Split of an image folder, train or test, in the order of torchvision."""

    classes: tuple[str, ...]
    samples: Samples
    unused: tuple[str, ...]


def list_folder(directory: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """List the training and the test split, with notes on oddities.

    A class may lack test images, which is noted. Raises DataError, naming all at once, where a split or its class
    folders are missing, training classes are empty, or the test split has other classes.
    """
    train_classes, train_loose = _classes(directory, "train")
    test_classes, test_loose = _classes(directory, "test")
    check_forms(directory, train_classes, test_classes)
    foreign = sorted(set(test_classes) - set(train_classes))
    train = _split(directory / "train", train_classes, train_loose)
    empty = _lacking(train)
    if empty:
        kinds = "the formats that Pillow decodes, such as .png and .jpg"
        raise DataError(f"{directory / 'train'}: no picture of {_classes_text(empty)} ({kinds}); add some or remove it")
    if foreign:
        raise DataError(
            f"{directory}: {_classes_text(foreign)} in test/ but not in train/; add training pictures or remove it"
        )
    test = _split(directory / "test", train_classes, test_loose)
    if not test.samples:
        raise DataError(f"{directory / 'test'}: no picture in any class folder; put pictures of each class there")
    return train, test, tuple(_notes(directory, train, test))


def _notes(directory: Path, train: Split, test: Split) -> Iterator[str]:
    """Notes on classes without test pictures, and on unused files and folders."""
    untested = _lacking(test)
    if untested:
        yield lacking_images("test", untested)
    yield from unlisted_text(directory, (*train.unused, *test.unused))
    hidden = [found for half in ("train", "test") for found in _hidden_pictures(directory, directory / half)]
    if hidden:
        yield f"pictures in hidden folders are not used: {some(hidden)}; rename these to use them"
    others = [f"{name}/" for name in folders_in(directory) if name not in ("train", "test")]
    if others:
        yield f"folders beside train/ and test/ are not used: {some(others)}"


def unlisted_text(directory: Path, paths: Sequence[str]) -> list[str]:
    """Note on files that are no pictures in a class folder, if there are any."""
    unused = [os.path.relpath(path, directory) for path in paths]
    if not unused:
        return []
    return [
        f"{_counted(len(unused), 'file is', 'files are')} not used (no picture of a known format in a class folder): "
        f"{some(unused)}"
    ]


def folders_in(directory: Path) -> list[str]:
    """Names of the folders in a directory, in alphabetical order. Raises DataError."""
    return [entry.name for entry in _entries(directory) if entry.is_dir()]


def classes_of(directory: Path, split: str) -> tuple[str, ...]:
    """Class folders of a split. Raises DataError where there are none."""
    return _classes(directory, split)[0]


def samples_of(folder: Path, classes: tuple[str, ...]) -> tuple[Samples, list[str]]:
    """Pictures of the classes below a folder, and other files. Raises DataError."""
    found = _split(folder, classes, _classes(folder.parent, folder.name)[1])
    return found.samples, list(found.unused)


def lacking_images(split: str, classes: Sequence[str]) -> str:
    """Note that some classes have no image in a split of the data set."""
    return f"no {split} images of {_classes_text(classes)}"


def _classes(directory: Path, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class folders of a split, in alphabetical order, and the files beside them."""
    folder = directory / split
    if not folder.is_dir():
        others = [entry.name for entry in _entries(directory) if entry.is_dir()] if directory.is_dir() else []
        there = f" (there are {some(others)})" if others else ""
        raise DataError(
            f"{folder}: no such directory{there}; "
            f"images belong in {directory}/train/<class>/ and {directory}/test/<class>/"
        )
    entries = _entries(folder)
    classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    loose = tuple(sorted(entry.path for entry in entries if not entry.is_dir()))
    if not classes:
        count = _counted(len(loose), "file lies", "files lie")
        lying = f" ({count} there without a class)" if loose else ""
        raise DataError(f"{folder}: no class folder{lying}; put the images of each class into {folder}/<class>/")
    return classes, loose


def check_forms(directory: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raise DataError for class names that differ only in their Unicode form.

    For example é as one code point, and as e and an accent.
    """
    known: dict[str, str] = {}
    for half, names in (("train", train), ("test", test)):
        for name in names:
            other = known.setdefault(unicodedata.normalize("NFC", name), name)
            if other != name:
                raise DataError(
                    f"{directory / half}: class {some([repr(name)])} differs from a class of train/ or test/ only in "
                    f"its Unicode form ({name!a} and {other!a}), as archives from a Mac do: give both the same "
                    "name, or put their pictures into one folder"
                )


def _hidden_pictures(directory: Path, half: Path) -> Iterator[str]:
    """Hidden folders with pictures in a split, with the number of pictures in each."""
    visible_ones = [Path(entry.path) for entry in _entries(half) if entry.is_dir()]
    for parent in (half, *visible_ones):
        try:
            with os.scandir(parent) as entries:
                folders = sorted(entry.path for entry in entries if _is_doubtful(entry.name) and entry.is_dir())
        except OSError as error:
            raise DataError(unreadable(parent, error)) from error
        for folder in folders:
            count = pictures_below(folder)
            if count:
                yield f"{os.path.relpath(folder, directory)}/ ({counted_pictures(count)})"


def pictures_below(folder: str | Path) -> int:
    """Number of pictures in a folder and those below it, hidden ones included."""
    return sum(_is_picture(name) for _, _, names in os.walk(folder) for name in names)


def counted_pictures(count: int) -> str:
    """Number of pictures, for people."""
    return _counted(count, "picture", "pictures")


def _is_doubtful(name: str) -> bool:
    """Return whether a folder is hidden by its dot and none that programs create."""
    lower = name.lower()
    return name.startswith(".") and lower not in _WELL_KNOWN and not lower.startswith(_TRASH)


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in extensions()


def _split(folder: Path, classes: tuple[str, ...], loose: tuple[str, ...]) -> Split:
    samples: Samples = []
    unused = list(loose)
    for label, name in enumerate(classes):
        for path in _files(folder / name) if (folder / name).is_dir() else ():
            if _is_picture(path):
                samples.append((path, label))
            else:
                unused.append(path)
    return Split(classes, samples, tuple(unused))


def _files(folder: Path) -> Iterator[str]:
    """Visible files below a class folder, in the order of torchvision's ImageFolder.

    Raises DataError for a folder that cannot be read, or is linked to from within itself.
    """
    found: list[tuple[str, list[str]]] = []
    for root, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in folders:
            below = os.path.join(root, name)
            if os.path.islink(below) and Path(os.path.realpath(root)).is_relative_to(os.path.realpath(below)):
                raise DataError(f"{visible(below, controls=True)}: links to a folder that it lies in; remove the link")
        found.append((root, sorted(name for name in names if not _is_hidden(name))))
    for root, names in sorted(found):
        yield from (os.path.join(root, name) for name in names)


def _unreadable(error: OSError) -> None:
    raise DataError(unreadable(Path(error.filename), error)) from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not _is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(unreadable(folder, error)) from error


def _is_hidden(name: str) -> bool:
    """Return whether this is a dot file or clutter of archives and file managers."""
    return name.startswith(".") or name.lower() in _CLUTTER


def _lacking(split: Split) -> list[str]:
    """The classes without a picture."""
    filled = {label for _, label in split.samples}
    return [name for label, name in enumerate(split.classes) if label not in filled]


def _classes_text(names: Sequence[str]) -> str:
    listed = some(repr(name) for name in names)
    return f"class {listed}" if len(names) == 1 else f"classes {listed}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
