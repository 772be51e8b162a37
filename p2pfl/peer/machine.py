"""The state machine of one peer: greeting, rounds, consensus rounds, goodbye.

A peer greets its neighbors, then goes through rounds: train, exchange, mix (or, in the overlapped order, exchange
while training), then through the consensus rounds, which only mix, and leaves when its neighbors have acknowledged
its last vector. It waits for its neighbors only; there is no other clock and no center. A neighbor that is lost, or
silent for too long, is done without until it is back (`neighbors`); a peer that finds the others far ahead goes
straight to where they are.

`Peer.handle(event, now)` is told what happened and returns what to do. It computes (the algorithms' folds) but
touches no socket, file, thread or clock, so a process, a test or a simulator can drive it alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from p2pfl.errors import ProtocolError
from p2pfl.exchange import Inbox, Outbox, Session
from p2pfl.exchange import events as ev
from p2pfl.gossip import Algorithm, Hoods, Payload
from p2pfl.peer.mixing import Mix
from p2pfl.peer.neighbors import Neighbors
from p2pfl.peer.patience import Patience
from p2pfl.wire import Header, Message

Stage = Literal["new", "greeting", "working", "recording", "ended"]


class Peer:
    """One peer's progress. `x` is its flat float32 vector, (size,), which the driver trains in place.

    After a round x may be another tensor; `RoundDone` says which.
    """

    def __init__(
        self, plan: ev.Plan, hoods: Hoods, x: Tensor, training: Algorithm[Any], consensus: Algorithm[Any]
    ) -> None:
        self._unsent = dict(plan.unsent)  # rounds before the first whose vectors neighbors may still need
        self.plan = plan = replace(plan, unsent={})  # so that their memory is free soon
        self.round = plan.first_round
        self.stage: Stage = "new"
        self._session = Session(plan)
        self._hoods = hoods
        self._x = x
        self._algorithms = (training, consensus)
        self._adopting = plan.empty and plan.first_round > 1  # this round it takes over a neighbor's weights
        self._neighbors = Neighbors(plan, self._session, self._standing)
        self._inbox = Inbox(self._senders_in, x.numel(), self._algorithm_of, plan.last_round)
        self._outbox = Outbox()
        self._state: Any = training.start(x, hoods)
        self._mixes = False  # the state is that of the consensus rounds
        self._mix: Mix | None = None
        self._current: dict[int, Payload] = {}
        self._left_behind = False  # others have gone on without it
        self._began = self._trained = False
        self._asked_again: set[tuple[int, int]] = set()  # (round, sender) of vectors of which a chunk was lost
        self._flushed = True
        self._patience = Patience(plan)
        self._handlers: dict[type, Callable[[Any, float], list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.Received: self._on_received,
            ev.Refused: lambda event, now: self._session.refuse(event.reason),
            ev.Trained: self._on_trained,
            ev.Flushed: self._on_flushed,
            ev.Recorded: self._on_recorded,
            ev.Reconnected: self._on_reconnected,
            ev.Lost: self._on_lost,
            ev.Tick: self._on_tick,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
        return [] if self.stage == "ended" else self._handlers[type(event)](event, now)

    @property
    def refused(self) -> Counter[str]:
        """How many messages were not taken, by reason."""
        return self._session.refused

    @property
    def facts(self) -> Mapping[str, Any]:
        """In whose place stood the peer's own vector in the round that is being recorded."""
        replaced = () if self._mix is None else self._mix.replaced
        return {"absent": [self.plan.names[peer] for peer in replaced] or None}

    @property
    def payloads(self) -> dict[int, Payload]:
        """What went to each neighbor in the round that is being recorded, for its checkpoint."""
        return dict(self._current)

    @property
    def wants_flush(self) -> bool:
        """Whether the peer could go on if only the transport had let go of its buffers."""
        return not self._flushed and self._outbox.idle and self.stage == "working"

    @property
    def deadline(self) -> float:
        """When the next `Tick` is due: patience with a neighbor ends, or it is time for a sign of life."""
        return self._patience.deadline(self.stage, self.round, self._neighbors)

    # Greeting

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self.stage = "greeting"
        self._patience.wait(now)
        self._neighbors.spoken_at = now
        if not self.plan.links:  # a peer that learns by itself
            return self._begin_round(now)
        return [*self._neighbors.greet_all(self.round), *self._begin_if_greeted(now)]

    def _begin_if_greeted(self, now: float) -> list[ev.Action]:
        """Begin when everybody has greeted; or, where the others are at work already, everybody within reach."""
        if self.stage != "greeting":
            return []
        unheard, target = self._neighbors.unheard, self._ahead()
        if unheard:
            # Who cannot be reached is away, if a launcher has waited for all to be there, or others are at work.
            late = self.plan.rejoins or target > self.round or self.plan.timeouts.start is None
            spared = self._is_spared(unheard)
            if not (late and spared and unheard == self._neighbors.unreachable and self._neighbors.heard_any):
                return []
        elif self._neighbors.all_left:
            return self._fail(f"back after all its neighbors had finished: this peer was in round {self.round}")
        actions = self._go_without(unheard, "cannot be reached", now)
        return [*actions, *self._go_to(target, now)]

    def _go_to(self, round: int, now: float) -> list[ev.Action]:
        """Begin a round, the next or a later one."""
        jumped = round > self.round + (self.stage == "recording")
        empty = self.plan.empty and self.stage == "greeting"
        self.round = round
        if not jumped:
            return self._begin_round(now)
        # Without weights of its own, or where the others only mix any more, it first takes over a neighbor's.
        self._adopting = empty or round > self.plan.training_rounds + 1
        self._mixes = False
        self._unsent.clear()
        self._outbox = Outbox()
        for neighbor in self.plan.links:
            self._inbox.relist(neighbor, round)
        news = ev.Note(f"goes straight to round {round}, where its neighbors are", matters=True)
        return [news, *self._neighbors.jump(round, round + self._adopting), *self._begin_round(now)]

    # Rounds

    def _begin_round(self, now: float) -> list[ev.Action]:
        self.stage, self._mix, self._began, self._left_behind = "working", None, False, False
        self._patience.begin(now)
        self._neighbors.spoken_at = now
        actions: list[ev.Action] = []
        for neighbor, rounds in self.plan.returns.items():
            if self.round in rounds:
                actions += self._neighbors.expect_back(neighbor, self.round)
        if self.round > self.plan.training_rounds and not self._mixes and not self._adopting:
            self._mixes = True
            self._state = self._algorithms[1].start(self._x, self._hoods)
        self._trained = self.round > self.plan.training_rounds or self._adopting
        if not self._trained and not self._algorithm.overlapped:
            actions += self._train(now)
        return actions + self._advance(now)

    def _train(self, now: float) -> list[ev.Action]:
        self._patience.train(now)
        return [ev.Train(self.round)]

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        self._patience.trained(now)
        self._trained = True
        return self._advance(now)

    def _advance(self, now: float) -> list[ev.Action]:
        """Everything that can be done now: serve who is behind, begin the exchange, fold, give leave, finish."""
        if self.stage != "working":
            return []
        actions = [*self._grants(), *self._serve_those_behind()]
        ready = self._trained or self._algorithm.overlapped
        if not self._began and ready and self._outbox.idle and self._flushed and not self._unsent:
            actions += self._begin_exchange()
            if not self._trained:
                actions += self._train(now)
        if self._began:
            actions += self._fold()
        # The last round of a phase also waits until every neighbor has its vector: bytes are counted in their phase,
        # and a peer leaves only when nobody needs it any more.
        settles = self.round in (self.plan.training_rounds, self.plan.last_round) or self.round in self.plan.settles
        mixed = self._began and self._trained and self._mix is not None and self._mix.complete
        if mixed and (self._outbox.idle or not settles):
            actions += self._finish_round()
        return actions

    def _serve_those_behind(self) -> list[ev.Action]:
        """Vectors of earlier rounds, from the checkpoint that this peer goes on with, to neighbors without them."""
        actions: list[ev.Action] = []
        while self._unsent and self._outbox.idle:
            round = min(self._unsent)
            items = [item for item in self._unsent.pop(round).items() if self._neighbors.serves(item[0], round)]
            actions += self._deliver(self._outbox.begin(round, items))
        return actions

    def _begin_exchange(self) -> list[ev.Action]:
        self._began = True
        hood = self._hoods(self.round)
        if self._adopting:
            self._current = {}
            return []
        self._current = dict(self._algorithm.outgoing(self._state, self.round))
        self._mix = Mix(
            self._algorithm, self._state, self._inbox, self.round, self.plan.me, list(hood.incoming), self._is_expected
        )
        needed = [item for item in self._current.items() if self._neighbors.serves(item[0], self.round)]
        return self._deliver(self._outbox.begin(self.round, needed))

    def _fold(self) -> list[ev.Action]:
        if self._mix is None:
            return self._adopt()
        own = next(iter(self._current.values()), None)
        return self._grants() if self._mix.fold(own) else []

    def _adopt(self) -> list[ev.Action]:
        """Take over the weights of the first neighbor whose vector is here, once nothing more is to come."""
        senders = sorted(self._senders_in(self.round))
        if not senders:
            return self._fail(f"no neighbor is left to take weights from in round {self.round}")
        if not all(self._inbox.is_whole(self.round, sender) for sender in senders):
            return []
        found = [payload for sender in senders if (payload := self._inbox.take(self.round, sender)) is not None]
        start = 0
        for piece in found[0].vectors["x"]:
            self._x[start : start + piece.numel()] = piece
            start += piece.numel()
        self.stage, self._adopting = "recording", False
        return [ev.RoundDone(self.round, self._x)]

    def _finish_round(self) -> list[ev.Action]:
        self._x = self._algorithm.finish(self._state)
        self.stage = "recording"
        return [ev.RoundDone(self.round, self._x)]

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        assert self.stage == "recording"
        self._patience.recorded(now)
        if self.round < self.plan.last_round:
            return self._go_to(self.plan.frozen.get(self.round, max(self.round + 1, self._ahead())), now)
        self.stage = "ended"
        goodbyes = [self._session.say("goodbye", link, self.round) for link in sorted(self.plan.links)]
        return [*goodbyes, ev.Finish()]

    def _on_flushed(self, event: ev.Flushed, now: float) -> list[ev.Action]:
        self._flushed = True
        return self._advance(now)

    # Messages

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(header)
            self._neighbors.heard(header.sender, now)
            if header.kind == "chunk":
                return self._on_chunk(event.message, now)
            if header.kind == "grant":
                return self._on_grant(header)
        except ProtocolError as error:
            refused = self._session.refuse(f"{error}, from {header.sender}")
            return [*refused, *self._on_bad_chunk(header, str(error), now)]
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "drop":
            return self._on_dropped(header, now)
        if header.kind == "ack":
            if self._outbox.acknowledged(header.sender, header.round):
                self._patience.moved(now)
        elif header.kind == "goodbye":
            self._neighbors.leave(header.sender)
            self._do_without(header.sender)
        return [*self._begin_if_greeted(now), *self._advance(now)] if header.kind == "goodbye" else self._advance(now)

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        was_away = header.sender in self._neighbors.away
        actions, stands = self._neighbors.hello(header, self.round)
        if not stands:
            return actions
        neighbor = header.sender
        if self._neighbors.has_left(neighbor):
            self._do_without(neighbor)
            return [*actions, *self._begin_if_greeted(now), *self._advance(now)]
        self._inbox.relist(neighbor, self._neighbors.expected_from(neighbor))
        if self.stage != "greeting":
            self._outbox.forget_leave(neighbor)
        if not self._neighbors.serves(neighbor, self._outbox.round):
            self._outbox.drop(neighbor)
        if was_away:
            news = f"peer {self.plan.name([neighbor])} is back from round {self._neighbors.expected_from(neighbor)} on"
            actions.append(ev.Note(news, matters=True))
        if self.stage == "greeting":
            return actions + self._begin_if_greeted(now)
        again: list[ev.Action] = []
        again += [self._session.say("grant", neighbor, round) for round in self._inbox.granted_to(neighbor)]
        payload = self._current.get(neighbor)
        in_exchange = self._began and self.stage == "working"
        if in_exchange and payload is not None and self._neighbors.serves(neighbor, self.round):
            again += self._deliver(self._outbox.add(neighbor, payload))
        return [*actions, *again, *self._advance(now)]

    def _on_dropped(self, header: Header, now: float) -> list[ev.Action]:
        """The neighbor has gone on without this peer: until both have agreed anew, so does this peer without it."""
        actions, was_up = self._neighbors.dropped(header, self.round)
        if was_up:
            self._left_behind = True
            self._do_without(header.sender)
            actions.append(ev.Note(f"peer {self.plan.name([header.sender])} has gone on without this peer"))
        return [*actions, *self._advance(now)]

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        complete = self._inbox.add(message)
        self._asked_again.discard((header.round, header.sender))
        self._patience.moved(now)  # a slow link that still delivers is no silent neighbor
        if not complete:
            # What is next in order is added as it comes, while it is in the cache and more is on its way.
            return self._fold() if self._is_next(header) else []
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _is_next(self, header: Header) -> bool:
        """Whether a chunk can be folded now."""
        folding = self.stage == "working" and self._mix is not None and self._algorithm.streaming
        return folding and header.round == self.round and self._mix is not None and self._mix.following == header.sender

    def _on_bad_chunk(self, header: Header, problem: str, now: float) -> list[ev.Action]:
        """After a lost chunk the vector is asked for again; one that must not be averaged is done without."""
        key = header.round, header.sender
        if problem.startswith("offset") and key not in self._asked_again:
            self._asked_again.add(key)
            return [self._session.say("grant", header.sender, header.round)]
        if not problem.startswith("values") or not self._inbox.has(*key) or self._inbox.is_whole(*key):
            return []
        self._inbox.drop(*key)
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _on_grant(self, header: Header) -> list[ev.Action]:
        if header.round > self.plan.last_round:
            raise ProtocolError(f"round: leave for round {header.round}")
        return self._deliver(self._outbox.granted(header.sender, header.round))

    # Sending

    def _grants(self) -> list[ev.Action]:
        if self.stage != "working":
            return []
        return [self._session.say("grant", sender, round) for round, sender in self._inbox.grant(self.round)]

    def _deliver(self, items: Sequence[tuple[int, Payload]]) -> list[ev.Action]:
        self._flushed = self._flushed and not items
        round = self._outbox.round
        return self._session.deliver(round, self._algorithm_of(round).codec, items)

    # Trouble

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; receivers ignore what they have."""
        neighbor = event.neighbor
        greeting = self._neighbors.reconnected(neighbor, self.round)
        return [*greeting, *self._say_again(neighbor)] if greeting else []

    def _say_again(self, neighbor: int, repeats: bool = True) -> list[ev.Action]:
        again: list[ev.Action] = []
        again += [self._session.say("grant", neighbor, round) for round in self._inbox.granted_to(neighbor)]
        again += [self._session.say("ack", neighbor, round) for round in self._inbox.taken_from(neighbor)]
        return again + (self._deliver(self._outbox.repeat(neighbor)) if repeats else [])

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        neighbor = event.neighbor
        if self.stage in ("new", "greeting"):
            self._neighbors.lose(neighbor)
            return self._begin_if_greeted(now)
        if not self._neighbors.is_up(neighbor):
            return []
        if not self._is_spared([neighbor]):
            return self._fail(f"lost the connection to peer {self.plan.name([neighbor])} in round {self.round}")
        return self._go_without([neighbor], "connection lost", now)

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        waits = self._blocking()
        actions = self._patience.notices(now, self.stage, self._neighbors)
        silent = self._patience.exhausted(now, self.stage, self.round, waits, self._neighbors)
        if silent is None:
            asks, repeats = self._patience.reminds(now, self.stage, self.round, self._flushed)
            for neighbor in sorted(waits) if asks else ():
                if neighbor in self._neighbors.unheard:
                    actions.append(self._neighbors.greet(neighbor, self.round))
                actions += self._say_again(neighbor, repeats)
            return actions
        why = self._patience.complaint(now, self.stage, self.round, silent, self._neighbors)
        if not silent or not self._is_spared(silent):
            return self._fail(why)
        return [*actions, *self._go_without(silent, why, now), *self._begin_if_greeted(now)]

    def _go_without(self, neighbors: Sequence[int], why: str, now: float) -> list[ev.Action]:
        """Take edges down: one's own weights stand in for theirs until they are back."""
        actions: list[ev.Action] = []
        for neighbor in neighbors:
            news = f"goes on without peer {self.plan.name([neighbor])} from round {self.round} on ({why})"
            actions += [ev.Note(news, matters=True), ev.Discard(neighbor), *self._neighbors.drop(neighbor)]
            self._do_without(neighbor)
        self._patience.wait(now)
        return actions + self._advance(now) if neighbors else []

    def _do_without(self, neighbor: int) -> None:
        self._inbox.relist(neighbor)
        self._outbox.drop(neighbor)
        self._outbox.forget_leave(neighbor)

    def _is_spared(self, neighbors: Sequence[int]) -> bool:
        """Whether the peer may go on without these too."""
        return len(self._neighbors.away | set(neighbors)) <= self.plan.spare

    def _fail(self, reason: str) -> list[ev.Action]:
        self.stage = "ended"
        return [ev.Fail(reason)]

    # What holds now

    def _standing(self, neighbor: int) -> tuple[int, int]:
        """The first round that this peer can serve a neighbor now, and the first that it needs of it."""
        if self.stage in ("working", "recording"):
            done = self.stage == "recording" or (self._mix is not None and self._mix.has(neighbor))
            needs = self.round + done
            while self._inbox.is_whole(needs, neighbor):
                needs += 1  # a neighbor that was a round ahead
            serves = self.round + (self.stage == "recording" or self._adopting)
            return self._outbox.round if neighbor in self._outbox.waiting_for else serves, needs
        first = self.round
        while neighbor in self._unsent.get(first - 1, ()):
            first -= 1
        return first + self._adopting, self.round

    def _ahead(self) -> int:
        """The round to go on with. Neighbors may be as far apart as there are peers between them, and wait.

        So a peer skips rounds only if it is further behind than that, starts, or was left behind while it slept.
        """
        slack = 0 if self._left_behind or self.stage == "greeting" else len(self.plan.names)
        return self._neighbors.ahead_of(self.round, frozenset(self._hoods(self.round).incoming), slack)

    def _senders_in(self, round: int) -> list[int]:
        return [n for n in self._hoods(round).incoming if self._neighbors.expects(n, round)]

    def _is_expected(self, sender: int) -> bool:
        return self._neighbors.expects(sender, self.round) and not self._inbox.is_given_up(self.round, sender)

    def _blocking(self) -> set[int]:
        """Neighbors that this peer waits for."""
        if self.stage == "greeting":
            return set(self._neighbors.unheard)
        if self.stage != "working":
            return set()
        missing = self._mix.missing() if self._mix is not None else self._inbox.missing(self.round)
        return missing | self._outbox.waiting_for

    def _algorithm_of(self, round: int) -> Algorithm[Any]:
        return self._algorithms[round > self.plan.training_rounds]

    @property
    def _algorithm(self) -> Algorithm[Any]:
        return self._algorithm_of(self.round)
