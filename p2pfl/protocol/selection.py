"""Which clients take part in a round, and what else a coordinator is told to decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pfl import seeding


@dataclass(frozen=True)
class Federation:
    """What only the coordinator decides. `sizes` weigh the clients' updates, (clients,), in any unit."""

    sizes: Sequence[float]
    selected: int
    seed: int
    min_updates: int
    deadline: float | None = None  # seconds; None: as long as clients have been seen to take, times TIMEOUT_FACTOR
    samples_before: int = 0  # of the run that this one resumes
    away: Callable[[int], frozenset[int]] = lambda round: frozenset()  # clients known to be away in a round
    back: Callable[[int], frozenset[int]] = lambda round: frozenset()  # those known to be back in it

    @property
    def clients(self) -> int:
        return len(self.sizes)


def select_clients(federation: Federation, round: int) -> tuple[int, ...]:
    """The clients of a round in ascending order, drawn without replacement, the same whenever it is asked."""
    rng = seeding.numpy_generator(federation.seed, "selection", round=round)
    drawn = rng.choice(federation.clients, federation.selected, replace=False)
    return tuple(sorted(int(client) for client in drawn))
