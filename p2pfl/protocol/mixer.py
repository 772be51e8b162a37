"""Algorithms of a run with their state, which a peer mixes by round after round."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm, RoundContext, Saved
from p2pfl.algorithms.contract import check_mix, check_payloads, check_request, check_saved
from p2pfl.payload import LocalTraining, Payload, Receipt
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.inbox import Inbox
from p2pfl.protocol.statistics import StatisticsRule
from p2pfl.topology import NeighborhoodSchedule

PLAIN = StatisticsRule()


@dataclass(frozen=True)
class Phases:
    """Algorithms of the training rounds and of the consensus rounds that follow."""

    training: Algorithm[Any]
    consensus: Algorithm[Any]
    training_rounds: int

    def at(self, round: int) -> Algorithm[Any]:
        """The algorithm of a round."""
        return self.training if round <= self.training_rounds else self.consensus


class Mixer:
    """Algorithm and state of one peer over the rounds; `finish` replaces its vector `x"""

    def __init__(
        self,
        phases: Phases,
        x: Tensor,
        schedule: NeighborhoodSchedule,
        links: Collection[int],
        restored: Saved | None = None,
        statistics: StatisticsRule = PLAIN,
    ) -> None:
        """`links`: neighbors of all rounds, on a schedule of graphs too.

        `restored`: the training algorithm's state from x's checkpoint, if there is one.
        """
        self.x = x
        self.payloads: dict[int, Payload] = {}  # this round's, by neighbor
        self.phases = phases
        self._schedule = schedule
        self._statistics = statistics
        self._links = links
        self._kept: tuple[Tensor, ...] = ()  # statistics that this round's mix leaves alone
        self._algorithm = phases.training
        self._state: Any = self._algorithm.init(x, schedule)
        if restored is not None:
            self._algorithm.load_state_dict(self._state, restored)
        self._is_consensus = False  # the state is that of the consensus rounds
        self._is_outdated = False  # it was, of rounds that the peer has left
        self._receipts: dict[int, Receipt] = {}  # of the phases before
        self._accounted: set[int] = set()  # neighbors whose payload was acknowledged, or counted as undelivered

    def enter(self, round: int) -> None:
        """Begin a round: each merge begins with a state of its algorithm."""
        if round > self.phases.training_rounds and not self._is_consensus:
            if not self._is_outdated:  # neighbors that are still in training rounds ask what has arrived of those
                self._keep_receipts()
            self._is_consensus, self._is_outdated = True, False
            self._algorithm = self.phases.consensus
            self._state = self._algorithm.init(self.x, self._schedule)
        elif round == self._statistics.estimated_in:
            self._keep_receipts()
            self._state = self._algorithm.init(self.x, self._schedule)

    def _keep_receipts(self) -> None:
        """Keep the receipts of a phase that is over: its state ends."""
        self._receipts |= {n: self._algorithm.receipt(self._state, n) for n in self._links}

    def reset(self) -> None:
        """Forget the state of consensus rounds, whose x is about to change."""
        self._is_outdated = self._is_consensus
        self._is_consensus, self._algorithm = False, self.phases.training

    def request(self, ctx: RoundContext, base: LocalTraining) -> LocalTraining:
        """Request to a round's local training, where the run's settings request `base`.

        Like `state_dict`, `offer` and `finish` it raises ConfigError where an algorithm hands over something unusable.
        """
        if ctx.round == self._statistics.estimated_in:
            return replace(base, reestimates=True)
        request = self._algorithm.request(self._state, ctx, base)
        check_request(self._algorithm, request, self.x.numel())
        return request

    def state_dict(self) -> Saved:
        """State of the training rounds' algorithm; nothing in consensus rounds."""
        if self._is_consensus:
            return {}
        saved = self._algorithm.state_dict(self._state)
        check_saved(self._algorithm, saved)
        return saved

    def offer(self, ctx: RoundContext, unacknowledged: Collection[int]) -> None:
        """Make this round's payloads; the last ones still `unacknowledged` stay open."""
        self.report_undelivered(unacknowledged)
        if not self._algorithm.overlapped:
            self._kept = self._statistics.take(self.x, ctx.round)
        payloads = dict(self._algorithm.outgoing(self._state, ctx))
        check_payloads(self._algorithm, payloads, ctx.neighborhood, self.x.numel())
        self.payloads = payloads
        self._accounted.clear()

    def aggregation(self, inbox: Inbox, me: int, ctx: RoundContext) -> RoundAggregation:
        """The aggregation of this round."""
        senders = list(ctx.neighborhood.incoming)
        return RoundAggregation(self._algorithm, self._state, inbox, ctx.round, me, senders)

    def finish(self, ctx: RoundContext, unacknowledged: Collection[int]) -> Tensor:
        """Mix: x is the round's average from now on."""
        self.report_undelivered(unacknowledged)
        if self._algorithm.overlapped:  # training has moved x since the round's payloads were made
            self._kept = self._statistics.take(self.x, ctx.round)
        mix = self._algorithm.finish(self._state, ctx)
        check_mix(self._algorithm, mix, self.x.numel())
        self.x = mix
        self._statistics.give(self.x, ctx.round, self._kept)
        return self.x

    def replace(self, blocks: Iterable[tuple[slice, Tensor]], round: int) -> None:
        """Take other peers' weights, block by block, in the place of this round's mix."""
        for here, block in blocks:
            self.x[here] = block
        self._statistics.give(self.x, round, ())

    def acknowledged(self, neighbor: int) -> None:
        """Note that a neighbor has its payload."""
        self._accounted.add(neighbor)

    def report_undelivered(self, unacknowledged: Collection[int]) -> None:
        """Tell the algorithm of payloads whose acknowledgement is given up."""
        for neighbor in self.payloads.keys() - self._accounted - set(unacknowledged):
            self._accounted.add(neighbor)
            self._algorithm.undelivered(self._state, neighbor, self.payloads[neighbor])
            if self._algorithm.takes_back:  # a checkpoint must not hold it, from which it would be sent again
                del self.payloads[neighbor]

    def edge_reset(self, neighbor: int) -> None:
        """Tell the algorithm that the edge to a neighbor went down."""
        if not self._is_outdated:
            self._algorithm.edge_reset(self._state, neighbor)

    def edge_up(self, neighbor: int, received: Receipt, served_from: int) -> None:
        """Tell the algorithm that the edge to a neighbor came up."""
        if not self._is_outdated:
            self._algorithm.edge_up(self._state, neighbor, received, served_from)

    def receipt(self, neighbor: int, inbox: Inbox) -> Receipt:
        """Last round whose payload from a neighbor is in the state, or about to be."""
        before = self._receipts.get(neighbor, Receipt())
        folded = Receipt() if self._is_outdated else self._algorithm.receipt(self._state, neighbor)
        return max(before, folded, Receipt(inbox.last_whole(neighbor)))
