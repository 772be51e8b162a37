"""Findings of decoding an image folder: refusals and notes that name the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pfl.config import PictureOptions
from p2pfl.data.pictures import Picture
from p2pfl.data.pixel_values import PictureError, Range, ReducedColorError, UnknownRangeError
from p2pfl.errors import DataError
from p2pfl.util.text import some

_NARROW = 1 / 4  # of the range that is used: values that fill less of it are noted


@dataclass
class Findings:
    """Counts and refusals of pictures, named relative to the folder."""

    directory: Path
    options: PictureOptions
    damaged: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    unknown: list[str] = field(default_factory=list)
    reduced: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    found: Range | None = None  # the lowest and highest of all values with more than 8 bits
    unmapped: Range | None = None  # the same of pictures for which no range is known
    used: set[Range] = field(default_factory=set)  # what became 0..255 of those
    deep: int = 0
    plain: int = 0
    upper: int = 0  # pictures of whose channels the upper 8 bits are used
    levels: dict[bool, Range] = field(default_factory=dict)  # lowest and highest of those and, under False, of plain
    transparent: int = 0
    pixels: int = 0
    outside: int = 0

    def add(self, path: str, picture: Picture) -> None:
        """Count a decoded picture."""
        if picture.is_animated:
            self.animated.append(self._name(path))
        self.transparent += picture.is_transparent
        if picture.deep is None:
            self.plain += not picture.is_reduced
            self.upper += picture.is_reduced
            self.levels[picture.is_reduced] = _wider(self.levels.get(picture.is_reduced), picture.levels)
            return
        self.deep += 1
        self.found = _wider(self.found, picture.deep.found)
        self.used.add(picture.deep.used)
        self.pixels += picture.deep.pixels
        self.outside += picture.deep.outside

    def refuse(self, path: str, error: PictureError | str) -> None:
        """Remember a picture that cannot be used, and why."""
        if isinstance(error, UnknownRangeError):
            self.unknown.append(self._name(path))
            self.unmapped = _wider(self.unmapped, error.found)
        elif isinstance(error, ReducedColorError):
            self.reduced.append(self._name(path))
        else:
            self.damaged.append((path, str(error)))

    def check(self) -> None:
        """Raise DataError that names all unusable pictures, up to twenty of each kind."""
        problems = [problem() for problem in (self._damaged, self._unknown, self._reduced)]
        if any(problems):
            raise DataError("; ".join(problem for problem in problems if problem))

    def notes(self) -> tuple[str, ...]:
        """Notes on the pictures that are used, a line each."""
        kinds: Sequence[Callable[[], str]] = (
            self._of_values,
            self._of_width,
            self._of_upper,
            self._of_plain,
            self._of_transparency,
        )
        notes = [kind() for kind in kinds]
        if self.animated:
            notes.append(
                f"of {_pictures(len(self.animated))} with several frames only the first is used: {some(self.animated)}"
            )
        return tuple(note for note in notes if note)

    def _damaged(self) -> str:
        if not self.damaged:
            return ""
        if len(self.damaged) == 1:
            path, reason = self.damaged[0]
            return f"{some([path])}: not a readable image ({some([reason])}); repair or remove it"
        listed = some(f"{self._name(path)} ({reason})" for path, reason in self.damaged)
        return f"{self.directory}: {len(self.damaged):,} images are not readable: {listed}; repair or remove them"

    def _unknown(self) -> str:
        if self.unmapped is None:
            return ""
        low, high = self.unmapped
        return (
            f"{self.directory}: {_pictures(len(self.unknown))} of 32 bits or floats, whose range no type gives: "
            f"{some(self.unknown)}; say what is black and white by --image-range LOW,HIGH "
            f"(their values run from {low:g} to {high:g})"
        )

    def _reduced(self) -> str:
        if not self.reduced:
            return ""
        return (
            f"{self.directory}: {_pictures(len(self.reduced))} with more than 8 bits a color channel, of which only "
            f"the upper 8 are read, so that --image-range cannot be applied: {some(self.reduced)}; "
            "convert them to 8 bits or to grayscale, or run without --image-range"
        )

    def _of_values(self) -> str:
        if not self.used:
            idle = "--image-range changes nothing: no picture has more than 8 bits a value"
            return "" if self.options.value_range is None else idle
        ranges = ", or ".join(f"{low:g} becomes black and {high:g} white" for low, high in sorted(self.used))
        return f"{_pictures(self.deep)} with more than 8 bits a value: {ranges}"

    def _of_width(self) -> str:
        """Note on values that the range in use fits badly."""
        if len(self.used) != 1 or self.found is None:
            return ""
        ((low, high),), (lowest, highest) = self.used, self.found
        if self.outside:
            share = f"{100 * self.outside / self.pixels:.3g} %"
            return f"{share} of their values lie outside that range and are clipped (from {lowest:g} to {highest:g})"
        if highest - lowest < _NARROW * (high - low):
            return (
                f"their values run only from {lowest:g} to {highest:g}, so that all look much alike: "
                f"--image-range {lowest:g},{highest:g} would use all levels"
            )
        return ""

    def _of_upper(self) -> str:
        if not self.upper:
            return ""
        used = f"{_pictures(self.upper)} with more than 8 bits a color channel, of which the upper 8 are used"
        low, high = self.levels[True]
        if high - low >= _NARROW * 255:
            return used
        alike = f"their levels run only from {low:g} to {high:g} of 255, so that all look much alike"
        return f"{used}: {alike}; convert them to 8 bits by the range of their values, or to grayscale"

    def _of_plain(self) -> str:
        if not self.plain:
            return ""
        said = f"{_pictures(self.plain)} with 8 bits a value"
        mixed = self.deep or self.upper
        low, high = self.levels[False]
        if high - low < _NARROW * 255:
            said += f"{' among them' * bool(mixed)}, whose levels run only from {low:g} to {high:g} of 255"
            return f"{said}, so that all look much alike: is their scale right?"
        return f"{said} among them, used as they are: are both kinds equally bright?" if mixed else ""

    def _of_transparency(self) -> str:
        red, green, blue = self.options.background
        if self.transparent:
            ground = f"#{red:02x}{green:02x}{blue:02x}"
            return f"{_pictures(self.transparent)} with transparency, put on the color {ground} (--background)"
        is_plain = self.options.background == PictureOptions().background
        return "" if is_plain else "--background changes nothing: no picture is transparent"

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.directory)


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' * (count != 1)}"


def _wider(known: Range | None, found: Range) -> Range:
    """The range that holds both."""
    return found if known is None else (min(known[0], found[0]), max(known[1], found[1]))
