"""Who watches a launch: the live table, or nobody."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from p2pfl.run.records import RoundRecord


class Observer(Protocol):
    """Told what happens, in any order; its methods return at once."""

    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def expect(self, steps_per_peer: int) -> None: ...
    def step(self, peer: int, steps: int) -> None: ...
    def round(self, peer: int, record: RoundRecord, sketch: npt.NDArray[np.float32]) -> None: ...
