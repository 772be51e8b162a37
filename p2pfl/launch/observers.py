"""Observers of a launch, such as the terminal: progress callbacks, as a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from p2pfl.run.records import RoundRecord

Sketch = npt.NDArray[np.float32]


class Observer(Protocol):
    """Progress callbacks of a launch, called in any order; they return at once."""

    def info(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def expect(self, steps_per_peer: int, consensus_rounds: int) -> None: ...
    def step(self, peer: int, steps: int) -> None: ...
    def round(self, peer: int, record: RoundRecord, sketch: Sketch) -> None: ...


class Observers:
    """A list of observers as one: each callback reaches all of them, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def info(self, text: str) -> None:
        """Show a line."""
        for observer in self._observers:
            observer.info(text)

    def warn(self, text: str) -> None:
        """Show a line that stands out."""
        for observer in self._observers:
            observer.warn(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a preparation is; total 0: unknown."""
        for observer in self._observers:
            observer.progress(what, done, total)

    def expect(self, steps_per_peer: int, consensus_rounds: int) -> None:
        """Note the optimizer steps of one peer, and the rounds of mixing only."""
        for observer in self._observers:
            observer.expect(steps_per_peer, consensus_rounds)

    def step(self, peer: int, steps: int) -> None:
        """Note the optimizer steps that a peer has done so far."""
        for observer in self._observers:
            observer.step(peer, steps)

    def round(self, peer: int, record: RoundRecord, sketch: Sketch) -> None:
        """Note a recorded round and the sketch of its weights (empty if there is none)."""
        for observer in self._observers:
            observer.round(peer, record, sketch)
