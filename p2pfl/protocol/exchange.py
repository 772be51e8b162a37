"""Exchange of one peer: channel, membership, aggregation; who is expected when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.algorithms.bootstrap import Bootstrap
from p2pfl.errors import Refusal
from p2pfl.payload import LocalTraining
from p2pfl.protocol import events as ev
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.backlog import Backlog
from p2pfl.protocol.channel import Channel
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.edge import ResumePoint
from p2pfl.protocol.inbox import Senders
from p2pfl.protocol.membership import Membership
from p2pfl.protocol.mixer import Mixer
from p2pfl.protocol.outbox import Outbox
from p2pfl.protocol.wire import Header, Message
from p2pfl.topology import NeighborhoodSchedule


class Exchange:
    """One peer's vectors out and in."""

    def __init__(self, context: PeerContext, schedule: NeighborhoodSchedule, mixer: Mixer) -> None:
        self.backlog = Backlog(context.pending_payloads)
        self._context = context = replace(context, pending_payloads={})  # so that their memory is free soon
        self._schedule, self.mixer, self.round = schedule, mixer, context.first_round
        self.in_round = False  # between `begin_round` and `finish`
        self.has_begun = False  # the round's payloads are on offer
        self.is_bootstrapping = context.needs_bootstrap and context.first_round > 1
        self.bootstrap = Bootstrap(self.algorithm.is_robust, self.algorithm.model_of)
        self.aggregation: RoundAggregation | None = None
        self.channel = Channel(context, mixer.x.numel(), mixer.phases.at)
        self._is_started = self._left_behind = False  # left behind: a neighbor continues without this peer
        points = {n: self._resume_point(n) for n in context.links}
        self.membership = Membership(context, self.channel, points, lambda n: mixer.receipt(n, self.channel.inbox))

    @property
    def algorithm(self) -> Algorithm[Any]:
        """The algorithm of this round."""
        return self.mixer.phases.at(self.round)

    # Expectation

    def _expected_in(self, round: int) -> list[int]:
        """In-neighbors whose vector of a round is waited for."""
        return [n for n in self._schedule(round).incoming if self.membership.expects(n, round)]

    def _senders(self, round: int) -> Senders:
        """Senders of a round: the expected, and those that may come back for it."""
        if round > self._context.last_round:
            return Senders()
        inbox, expected = self.channel.inbox, self._expected_in(round)
        passed = self.aggregation.passed if self.aggregation is not None and round == self.round else ()
        here = {n for n in expected if self.membership.is_up(n) and not inbox.is_given_up(round, n)}
        others = [n for n in self._schedule(round).incoming if n not in here and n not in passed]
        return Senders(expected, [n for n in others if not inbox.is_granted(round, n)])

    def _expectation_changed(self) -> None:
        """Tell the aggregation who is expected, after any change of an edge or payload."""
        if self.aggregation is not None:
            given_up = self.channel.inbox.is_given_up
            self.aggregation.expected = {n for n in self._expected_in(self.round) if not given_up(self.round, n)}

    def waits_for(self) -> set[int]:
        """Neighbors whose vector or acknowledgement is waited for."""
        inbox, mix = self.channel.inbox, self.aggregation
        vectors = inbox.missing(self.round, self._expected_in(self.round)) if mix is None else mix.waits_for()
        return vectors | self.channel.outbox.waiting_for

    def ahead(self) -> int:
        """Round to continue with: a later one than the next where others are far ahead."""
        if self._is_started and not self.channel.outbox.idle:
            return self.round  # a jump would lose the acknowledgement of what is being sent
        return (not self._is_started and self._context.begins_in(self.round)) or self._round_of_others()

    def _round_of_others(self) -> int:
        """Round in which others are that are far ahead, or else this peer's."""
        senders = {n for r in range(self.round, self.round + self._context.period) for n in self._schedule(r).incoming}
        return self.membership.ahead_of(self.round, senders, self._context.slack(self._is_started, self._left_behind))

    def _resume_point(self, neighbor: int) -> ResumePoint:
        """First round that this peer can serve a neighbor, and first that it needs."""
        if self._is_started:
            is_over, outbox = not self.in_round, self.channel.outbox
            has_it = is_over or (self.aggregation is not None and self.aggregation.has(neighbor))
            needs = self.channel.inbox.first_missing(
                self.round + has_it, neighbor, lambda round: neighbor in self._schedule(round).incoming
            )
            serves = self.round + (is_over or self.is_bootstrapping)
            return ResumePoint(outbox.round if neighbor in outbox.waiting_for else serves, needs)
        first = self.backlog.first_for(neighbor, self.round, self._schedule)
        return ResumePoint(first + self.is_bootstrapping, self.round)

    # A round

    def jump(self, round: int, is_empty: bool) -> list[ev.Action]:
        """Go to a later round; bootstrap if this peer `is_empty` or others only mix."""
        self.is_bootstrapping = is_empty or round > self._context.training_rounds + 1
        if self.is_bootstrapping:
            round = self._context.first_within_period(round, lambda later: bool(self._expected_in(later)))
        self.round, has_unsent = round, bool(self.backlog)
        self.mixer.reset()
        self.backlog.clear()
        self.channel.outbox = Outbox()
        self.channel.inbox.skip_to(round)
        actions = self.membership.jump(round, round + self.is_bootstrapping)
        for neighbor in self.membership.up if has_unsent else ():  # it will never get what was promised from there
            self.mixer.edge_up(neighbor, *self.membership.delivery(neighbor))
        return actions

    def begin_round(self, round: int) -> list[ev.Action]:
        """Begin a round, and wait for neighbors that are known to be back in it."""
        self.round, self.in_round, self._is_started = round, True, True
        self.aggregation, self.has_begun = None, False
        self._left_behind = self._left_behind and not self.channel.outbox.idle  # then it could not jump yet
        self.bootstrap = Bootstrap(self.algorithm.is_robust, self.algorithm.model_of)
        back = [neighbor for neighbor, rounds in self._context.expected_returns.items() if round in rounds]
        actions = [a for n in back for a in self.membership.expect_back(n, round, self._resume_point(n))]
        if not self.is_bootstrapping:
            self.mixer.enter(round)
        return actions

    @property
    def can_begin(self) -> bool:
        """Whether nothing of the rounds before is still being sent."""
        return not self.has_begun and self.channel.outbox.idle and self.channel.flushed and not self.backlog

    def begin(self, training: ev.Trained) -> list[ev.Action]:
        """Offer this round's payloads; a peer that bootstraps has none."""
        self.has_begun = True
        if self.is_bootstrapping:
            self.mixer.payloads = {}
            return []
        ctx, outbox = self._round_context(training), self.channel.outbox
        self.mixer.offer(ctx, outbox.waiting_for)
        self.aggregation = self.mixer.aggregation(self.channel.inbox, self._context.me, ctx)
        self._expectation_changed()
        needed = [item for item in self.mixer.payloads.items() if self.membership.serves(item[0], self.round)]
        return self.channel.deliver(self.round, outbox.begin(self.round, needed))

    def grant_credit(self) -> list[ev.Action]:
        """Grant credit to the next senders, as far as the window has places."""
        if not self.in_round or not self.channel.inbox.may_grant(self.round):
            return []
        granted = self.channel.inbox.grant(self.round, self._senders(self.round), self._senders(self.round + 1))
        return [self.channel.message("grant", sender, round) for round, sender in granted]

    def fold(self) -> list[ev.Action]:
        """Add what can be added, and grant the credit that this makes room for."""
        if self.aggregation is None or not self.aggregation.fold():
            return []
        return self.channel.give_up(self.round, self.aggregation.take_unusable()) + self.grant_credit()

    @property
    def may_finish(self) -> bool:
        """Whether the average is complete, and this peer's vector where it must be."""
        # A phase ends when every neighbor has its vector: bytes are counted in their phase, and a peer may end then.
        # So does the round before a jump, after which no acknowledgement counts.
        if self.aggregation is None or not self.aggregation.is_complete:
            return False
        barriers = self._context.training_rounds, self._context.last_round, *self._context.barrier_rounds
        return self.channel.outbox.idle or (self.round not in barriers and self._round_of_others() == self.round)

    def finish(self, training: ev.Trained) -> Tensor:
        """Mix; returns x, which holds the round's average."""
        self.in_round = False
        return self.mixer.finish(self._round_context(training), self.channel.outbox.waiting_for)

    def request(self, training: ev.Trained) -> LocalTraining:
        """The algorithm's request to this round's local training."""
        return self.mixer.request(self._round_context(training), self._context.local_training)

    def _round_context(self, done: ev.Trained) -> RoundContext:
        trained = done.steps, done.samples, done.loss, done.lr, done.lr_sum
        return RoundContext(self.round, self._schedule(self.round), *trained, memory=self._context.memory)

    @property
    def facts(self) -> dict[str, list[str] | None]:
        """Missing peers of the round being recorded, and the sources of a bootstrap."""
        replaced, names = () if self.aggregation is None else self.aggregation.replaced, self._context.names
        return {
            "absent": [names[peer] for peer in replaced] or None,
            "weights_from": [names[peer] for peer in self.bootstrap.senders] or None,
        }

    def take_weights(self) -> bool:
        """Collect the neighbors' weights; whether all that were expected are here."""
        for sender in (senders := sorted(self._expected_in(self.round))):
            if (payload := self.channel.take(self.round, sender)) is not None:  # which makes room for others'
                self.bootstrap.add(sender, payload)
        return not self.channel.inbox.missing(self.round, senders)

    def finish_bootstrap(self) -> Tensor:
        """Write the collected weights into x."""
        self.mixer.replace(self.bootstrap.blocks(), self.round)
        self.in_round = self.is_bootstrapping = False
        return self.mixer.x

    # Edges

    def hello(self, header: Header) -> tuple[list[ev.Action], bool]:
        """Take a greeting; whether a new epoch stands now, or the neighbor has finished."""
        neighbor, was_missing = header.sender, header.sender in self.membership.missing
        actions, stands = self.membership.hello(header, self.round, self._resume_point(neighbor))
        if stands and self.membership.has_finished(neighbor):
            self._release(neighbor)
        elif stands:
            actions += self._resume(neighbor, was_missing)
        self._expectation_changed()
        return actions, stands

    def _resume(self, neighbor: int, was_missing: bool) -> list[ev.Action]:
        """Continue with a neighbor in a new epoch of the edge."""
        actions: list[ev.Action] = []
        context, channel, first = self._context, self.channel, self.membership.expected_from(neighbor)
        channel.inbox.reorder(neighbor, first)
        if self._is_started:
            channel.outbox.revoke_credit(neighbor)
        if not self.membership.serves(neighbor, channel.outbox.round):
            channel.outbox.drop(neighbor)
        if was_missing:
            actions += [ev.Note(f"peer {context.name([neighbor])} is back from round {context.shown(first)} on", True)]
        self.mixer.edge_up(neighbor, *self.membership.delivery(neighbor))
        if not self._is_started:
            return actions
        actions += [channel.message("grant", neighbor, round) for round in channel.inbox.granted_to(neighbor)]
        payload = self.mixer.payloads.get(neighbor) if self.in_round and self.has_begun else None
        if payload is not None and self.membership.serves(neighbor, self.round):
            actions += channel.deliver(channel.outbox.round, channel.outbox.add(neighbor, payload))
        return actions

    def edge_down(self, header: Header) -> list[ev.Action]:
        """Continue without a neighbor that does so too, until a new epoch stands."""
        neighbor = header.sender
        actions, was_in_use = self.membership.edge_down(header, self.round, self._resume_point(neighbor))
        if was_in_use:
            self._left_behind = True
            self._release(neighbor)
            actions.append(ev.Note(f"peer {self._context.name([neighbor])} continues without this peer"))
        self._expectation_changed()
        return actions

    def take_down(self, neighbor: int) -> list[ev.Action]:
        """Continue without a neighbor until it is back."""
        actions: list[ev.Action] = [ev.Discard(neighbor), *self.membership.take_down(neighbor)]
        self._release(neighbor)
        actions += self.membership.expect_late(neighbor, self.round, self._resume_point(neighbor))
        self._expectation_changed()
        return actions

    def finish_edge(self, neighbor: int) -> None:
        """Note that a neighbor has done its last round."""
        self.membership.finish(neighbor)
        self._release(neighbor)
        self._expectation_changed()

    def reconnected(self, neighbor: int) -> list[ev.Action]:
        """Repeat the messages that the broken connection may have lost."""
        actions = self.membership.reconnected(neighbor, self.round, self._resume_point(neighbor))
        self._expectation_changed()
        if actions:
            resent = self.channel.outbox.repeat(neighbor)
            actions += self.channel.resend(neighbor) + self.channel.deliver(self.channel.outbox.round, resent)
        return actions

    def _release(self, neighbor: int) -> None:
        self.channel.inbox.reorder(neighbor)
        self.channel.outbox.drop(neighbor)
        self.channel.outbox.revoke_credit(neighbor)
        self.mixer.edge_reset(neighbor)

    # Vectors

    def chunk(self, message: Message) -> tuple[list[ev.Action], bool]:
        """Take a chunk; whether its vector is whole. Raises ProtocolError."""
        header = message.header
        if self.channel.take_chunk(message):
            return [self.channel.message("ack", header.sender, header.round)], True
        # What is next in order is added as it comes, while it is in the cache and more is on its way.
        is_next = self.aggregation is not None and self.aggregation.takes_part_of(header.sender, header.round)
        return (self.fold() if is_next else []), False

    def bad_chunk(self, header: Header, problem: Refusal) -> list[ev.Action]:
        """React to a refused chunk: its vector is asked for again, or given up."""
        actions = self.channel.bad_chunk(header, problem)
        self._expectation_changed()
        return actions

    def acknowledged(self, header: Header) -> bool:
        """Note an acknowledgement. False if it was known."""
        if is_new := self.channel.outbox.acknowledged(header.sender, header.round):
            self.mixer.acknowledged(header.sender)
        return is_new
