"""Context of one process in a run: links, rounds, limits, earlier incarnations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from p2pfl.payload import LocalTraining, Payload, VectorMemory
from p2pfl.protocol.greeting import Greeting
from p2pfl.protocol.introduction import Introduction
from p2pfl.protocol.numbering import Numbering
from p2pfl.protocol.statistics import StatisticsRule


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds, from `start_timeout` and so on of `ExchangeConfig`."""

    start: float | None  # None: a launcher has brought the peers together already
    handshake: float
    first_round: float
    round: float


@dataclass(frozen=True)
class PeerContext:
    """Settings of one peer, client or coordinator, beside its algorithms.

    Rounds are counted from 1: training rounds 1..training_rounds, then the consensus rounds. Each is one exchange; with
    several of them after each local training `numbering` says which round of the run they belong to. `first_round` is
    more than 1 when the run is resumed; `pending_payloads` then holds what went to each neighbor in the last rounds
    before it, by round, for those that are behind.
    """

    me: int
    names: Sequence[str]
    links: frozenset[int]
    training_rounds: int
    consensus_rounds: int
    run: str
    layout: str
    timeouts: Timeouts
    first_round: int = 1
    pending_payloads: Mapping[int, Mapping[int, Payload]] = field(default_factory=dict)
    incarnation: int = 1
    """Number of this start of the process; a later start has a larger one."""
    is_rejoining: bool = False
    """Whether the other peers are at work already."""
    needs_bootstrap: bool = False
    """Whether x holds no more than initial weights."""
    has_lost_weights: bool = False
    """Whether it needs a bootstrap because a checkpoint was lost, so that it waits for neighbors' weights."""
    absent: frozenset[int] = frozenset()
    """Neighbors that are known to be away for good."""
    max_missing: int = 0
    """How many neighbors may be missing at once; with more the peer ends."""
    expected_returns: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """For each neighbor, rounds in which it is known to be back, and is waited for."""
    barrier_rounds: frozenset[int] = frozenset()
    """Further rounds that end only when all neighbors have acknowledged what they got, as the last of a phase do."""
    scripted_pauses: Mapping[int, int] = field(default_factory=dict)
    """Rounds in which a fault script pauses the peer, each with the round in which it continues."""
    away_until: int = 0
    """Round in which it takes part again if a fault script keeps it away until then, which may be none of the run's.

    Before, it only serves neighbors the vectors that they lack.
    """
    gossip_steps: int = 1
    """Exchanges after each local training, of which `training_rounds` is a multiple."""
    period: int = 1
    """Rounds after which its neighborhoods repeat, more than one on a schedule of graphs."""
    local_training: LocalTraining = field(default_factory=LocalTraining)
    """The request to local training that the run's settings make."""
    statistics: StatisticsRule = field(default_factory=StatisticsRule)
    """Treatment of running statistics of batch normalization."""
    greeting: Greeting = field(default_factory=Greeting)
    """What neighbors must have been started with too."""
    memory: VectorMemory = field(default_factory=VectorMemory, compare=False)
    """Memory for vectors that are sent."""
    introductions: Mapping[int, Introduction] = field(default_factory=dict)
    """Descriptions of all peers' own data, for a neighbor that has to learn them once more."""

    @property
    def last_round(self) -> int:
        """The last consensus round, or the last training round where there are none."""
        return self.training_rounds + self.consensus_rounds

    def works_in(self, round: int) -> bool:
        """Whether a round has local work: training, or re-estimation."""
        return self.numbering.trains(round) or round == self.statistics.estimated_in

    def phase_begin(self, round: int) -> int:
        """First round of a round's phase: the training rounds, or a merge."""
        if round <= self.training_rounds:
            return 1
        second = self.statistics.estimated_in
        return second if 0 < second <= round else self.training_rounds + 1

    @property
    def numbering(self) -> Numbering:
        """Numbers of the exchanges and of the run's rounds."""
        return Numbering(self.training_rounds // self.gossip_steps, self.gossip_steps)

    def shown(self, round: int) -> int:
        """The run's round of an exchange, for a message."""
        return self.numbering.round_of(round)

    def begins_in(self, round: int) -> int:
        """Round in which a fault script has it begin in place of `round`; 0: none."""
        return self.away_until or (round if round in self.scripted_pauses else 0)

    def slack(self, is_started: bool, was_left_behind: bool) -> int:
        """Rounds by which neighbors may be ahead of a peer that has missed nothing.

        The next round is not counted. They may be as far apart as there are peers between them, and wait; on a schedule
        also as far as there are rounds without an edge between them. One that starts, or was left behind while it
        slept, has missed something, unless the others are in the same round of the run, or have just begun the next:
        checkpoints are those of whole rounds, and what it has still to do of this one it can do by itself.
        """
        same = self.gossip_steps - 1
        if was_left_behind or (self.is_rejoining and not is_started):
            return same
        if is_started:
            return len(self.names) * self.period
        return same + (self.period + 1 if self.period > 1 else 0)

    def first_within_period(self, round: int, fits: Callable[[int], bool]) -> int:
        """First round of a period from `round` on that fits; `round` itself if none does."""
        rounds = range(round, min(round + self.period, self.last_round + 1))
        return next((number for number in rounds if fits(number)), round)

    def name(self, peers: Iterable[int]) -> str:
        """Labels of some peers, for a message."""
        return ", ".join(self.names[peer] for peer in sorted(peers))
