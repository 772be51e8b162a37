"""State diagrams as SVG, drawn from the tables that transitions are checked by.

States stand in a column, in the order of the table. Transitions to the next state are arrows between them; those that
skip states run beside the column, forward at its right and backward at its left. Transitions with the same reason and
the same end share a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import Any

from p2pfl.protocol.states import CLIENT, EDGE, PEER, PROGRESS, Transitions

DIAGRAMS: Mapping[str, Transitions[Any]] = {"peer": PEER, "client": CLIENT, "edge": EDGE, "progress": PROGRESS}

_BOX_WIDTH = 120
_SLOT = 26  # between two lines that begin or end at one box
_GAP = 46  # between two boxes
_LANE = 14  # between two lines beside the column
_CHARACTER = 6.7  # width, at the font size of the style sheet
_RADIUS = 6


@dataclass(frozen=True)
class _Line:
    """Transitions of one reason to one state.

    `sources` and `end`: places in the column.
    """

    sources: tuple[int, ...]
    end: int
    reason: str

    @property
    def is_step(self) -> bool:
        return self.sources == (self.end - 1,)

    @property
    def is_forward(self) -> bool:
        return self.end > max(self.sources)

    @property
    def span(self) -> tuple[int, int]:
        places = (*self.sources, self.end)
        return min(places), max(places)


def diagram(name: str) -> str:
    """SVG of one table. Raises KeyError for an unknown name."""
    if name not in DIAGRAMS:
        raise KeyError(f"there is no state diagram {name}; known are {', '.join(DIAGRAMS)}")
    transitions = DIAGRAMS[name]
    states = list(transitions.table)
    return _Drawing(transitions, states, _lines(transitions, states)).svg()


def _lines(transitions: Transitions[Any], states: Sequence[StrEnum]) -> list[_Line]:
    place = {state: number for number, state in enumerate(states)}
    steps, grouped = [], dict[tuple[int, str, bool], list[int]]()
    for old, successors in transitions.table.items():
        for new, reason in successors.items():
            begin, end = place[old], place[new]
            if end == begin + 1:
                steps.append(_Line((begin,), end, reason))
            else:
                grouped.setdefault((end, reason, end > begin), []).append(begin)
    return steps + [_Line(tuple(begins), end, reason) for (end, reason, _), begins in grouped.items()]


class _Drawing:
    """Layout of one diagram: slots at the boxes' sides, lanes beside the column."""

    def __init__(self, transitions: Transitions[Any], states: Sequence[StrEnum], lines: Sequence[_Line]) -> None:
        self._transitions = transitions
        self._states = states
        self._steps = [line for line in lines if line.is_step]
        beside = sorted((line for line in lines if not line.is_step), key=lambda line: line.span[1] - line.span[0])
        self._right = [line for line in beside if line.is_forward]
        self._left = [line for line in beside if not line.is_forward]
        self._slots = {side: self._slots_of(lines) for side, lines in (("right", self._right), ("left", self._left))}
        heights = [self._height(place) for place in range(len(states))]
        self._tops = [_GAP + sum(heights[:place]) + _GAP * place for place in range(len(states))]
        self._heights = heights
        self._margin = {side: self._room(lines) for side, lines in (("right", self._right), ("left", self._left))}
        self._x = self._margin["left"] + _LANE * (len(self._left) + 1)

    @staticmethod
    def _slots_of(lines: Sequence[_Line]) -> dict[tuple[int, int], int]:
        """Number of the slot of each (line, place), counted from the top of a box."""
        slots: dict[tuple[int, int], int] = {}
        used: dict[int, int] = {}
        for number, line in enumerate(lines):
            for place in dict.fromkeys((*line.sources, line.end)):
                count = 2 if place == line.end and place in line.sources else 1
                slots[number, place] = used.get(place, 0)
                used[place] = used.get(place, 0) + count
        return slots

    def _height(self, place: int) -> int:
        most = 1
        for side, lines in (("right", self._right), ("left", self._left)):
            own = [slot for (_, at), slot in self._slots[side].items() if at == place]
            loops = any(place in line.sources and place == line.end for line in lines)
            most = max(most, max(own, default=0) + 1 + loops)
        return most * _SLOT + 8

    @staticmethod
    def _room(lines: Sequence[_Line]) -> int:
        return round(max((len(line.reason) * _CHARACTER for line in lines), default=0) + 24) if lines else 24

    def _y(self, side: str, number: int, place: int) -> float:
        return self._tops[place] + 4 + (self._slots[side][number, place] + 0.5) * _SLOT

    def svg(self) -> str:
        """The whole drawing, in colors of the page."""
        height = self._tops[-1] + self._heights[-1] + _GAP
        width = self._x + _BOX_WIDTH + self._margin["right"] + _LANE * (len(self._right) + 1)
        parts = [self._initial(), *map(self._step, self._steps)]
        parts += [self._beside("right", number, line) for number, line in enumerate(self._right)]
        parts += [self._beside("left", number, line) for number, line in enumerate(self._left)]
        parts += [self._box(place, state) for place, state in enumerate(self._states)]
        title = f"State diagram: {self._transitions.title}"
        return (
            f'<svg class="states" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}" '
            'xmlns="http://www.w3.org/2000/svg"><defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" '
            'markerWidth="8" markerHeight="8" orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
            + "".join(parts)
            + "</svg>"
        )

    def _box(self, place: int, state: StrEnum) -> str:
        x, y, height = self._x, self._tops[place], self._heights[place]
        end = ' class="end"' if not self._transitions.table[state] else ""
        return (
            f'<rect{end} x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{height}" rx="{_RADIUS}"/>'
            f'<text class="state" x="{x + _BOX_WIDTH / 2}" y="{y + height / 2 + 4}">{escape(str(state))}</text>'
        )

    def _initial(self) -> str:
        """Dots, from which arrows lead down into the initial states."""
        found = []
        for state in self._transitions.initial:
            place = self._states.index(state)
            if place == 0:
                x, y = self._x + _BOX_WIDTH / 2, self._tops[0]
                found.append(f'<circle cx="{x}" cy="{y - 30}" r="5"/><path d="M{x} {y - 25}V{y}"/>')
            else:
                x, y = self._x + 16, self._tops[place]
                found.append(f'<circle cx="{x}" cy="{y - 24}" r="5"/><path d="M{x} {y - 19}V{y}"/>')
        return "".join(found)

    def _step(self, line: _Line) -> str:
        x = self._x + _BOX_WIDTH / 2
        begin = self._tops[line.end - 1] + self._heights[line.end - 1]
        return (
            f'<path d="M{x} {begin}V{self._tops[line.end]}"/>'
            f'<text x="{x + 8}" y="{begin + _GAP / 2 + 3}">{escape(line.reason)}</text>'
        )

    def _beside(self, side: str, number: int, line: _Line) -> str:
        """Line at one side of the column, with its reason at each source."""
        sign = 1 if side == "right" else -1
        edge = self._x + (_BOX_WIDTH if side == "right" else 0)
        lane = edge + sign * (self._margin[side] + _LANE * number)
        is_loop = line.sources == (line.end,)
        end_y = self._y(side, number, line.end) + (_SLOT if line.end in line.sources else 0)
        path = []
        for source in line.sources:
            y = self._y(side, number, source)
            path.append(f"M{edge} {y}H{lane}V{end_y}")
        path.append(f"M{lane} {end_y}H{edge}")
        if is_loop:
            path = [f"M{edge} {self._y(side, number, line.end)}H{lane}V{end_y}H{edge}"]
        anchor = "" if side == "right" else ' class="left"'
        lines = "".join(f'<path class="line" d="{one}"/>' for one in path[:-1])
        labels = (
            f'<text{anchor} x="{edge + sign * 10}" y="{self._y(side, number, source) - 5}">{escape(line.reason)}</text>'
            for source in line.sources
        )
        return f'{lines}<path d="{path[-1]}"/>{"".join(labels)}'
