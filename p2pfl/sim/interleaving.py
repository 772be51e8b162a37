"""Explorer of interleavings: a caller picks every next event of protocol objects.

A test's generator, or a seed, picks which of the possible events happens next: a message arrives, work is done, buffers
are free, a link is lost or stands again, time passes. From outside, processes are killed, started again, paused and
woken, links are cut, messages lost, damaged and repeated. So orders are tried that no timed network would bring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, Protocol

from p2pfl.protocol import events as ev
from p2pfl.protocol.logic import Logic
from p2pfl.sim.link import ContractError, LinkEvent, Links
from p2pfl.transport.conditioner import SPARED

STEP_SECONDS = 0.001  # that every event takes
MAX_STEPS = 100_000


class Scenario(Protocol):
    """The processes that are explored, and the work that they do."""

    processes: int
    """Number of processes, which are numbered from 0."""

    def build(self, me: int, is_restarted: bool) -> Logic:
        """Build the protocol object of a process."""

    def begin(self, me: int, action: ev.Train | ev.RoundDone) -> None:
        """Begin what a process was told to do."""

    def complete(self, me: int, action: ev.Train | ev.RoundDone) -> ev.Trained | ev.Recorded:
        """Complete it; returns the event that the process is told."""

    def check(self, me: int, actions: Sequence[ev.Action]) -> None:
        """Check the invariants after an event, to which a process reacted so."""


class Step(NamedTuple):
    """Possible next event: its kind, and the process at the other end; `actor` reacts."""

    kind: str
    other: int
    actor: int


class Interleaving:
    """All processes of a scenario; of the possible events (`options`) `do` takes one."""

    def __init__(self, scenario: Scenario, grace: float | None = None) -> None:
        """`grace`: seconds after which a broken link is lost.

        None: only links to processes that are gone are ever lost, at any time once their messages have been read.
        """
        self.now = 0.0
        self.links = Links(grace=grace, keeps_history=True)
        self.logics: dict[int, Logic] = {}  # of processes that were not killed
        self.work: dict[int, ev.Train | ev.RoundDone] = {}
        self.ended: dict[int, ev.Finish | ev.Fail] = {}
        self.paused: set[int] = set()
        self.notes: list[tuple[int, ev.Note]] = []
        self._scenario = scenario
        self._healing: set[tuple[int, int]] = set()  # links that may stand again at any time
        # Of each process, as of the last event that it was told: nothing else changes them.
        self._deadlines: dict[int, float] = {}
        self._flushing: set[int] = set()
        self._turn = 0
        for me in range(scenario.processes):
            self.logics[me] = scenario.build(me, False)
        for me in range(scenario.processes):
            self._connect(me)
        for me in range(scenario.processes):
            self.tell(me, ev.Started())

    @property
    def live(self) -> list[int]:
        """Processes that have neither ended nor been killed."""
        return [me for me in self.logics if me not in self.ended]

    # Events

    def options(self) -> list[Step]:
        """Every event that could come next, in a fixed order; time is none of them."""
        found: list[Step] = []
        live = set(self.live)
        awake = live - self.paused
        for sender, receiver, link in self.links.all():
            if receiver in awake:
                if link.unread:
                    found.append(Step("deliver-unread", sender, receiver))
                if link.under_way and link.is_up:
                    found.append(Step("deliver", sender, receiver))
            if (sender, receiver) in self._healing and sender in awake and receiver in live:
                found.append(Step("heal", receiver, sender))
        for me in awake:
            if self.links.events[me]:
                found += [Step("learn", event.neighbor, me) for event in self._learnable(me)]
            if me in self.work:
                found.append(Step("work", me, me))
            if me in self._flushing:
                found.append(Step("flush", me, me))
        return sorted(found, key=itemgetter(1, 0, 2))  # by the other end, then by kind

    def do(self, step: Step) -> None:
        """Let an event happen."""
        self.now += STEP_SECONDS
        kind, other, actor = step
        if kind.startswith("deliver"):
            self.tell(actor, self.links.between(other, actor).take(kind == "deliver-unread"))
        elif kind == "heal":
            self.heal(actor, other)
        elif kind == "learn":
            event = next(event for event in self._learnable(actor) if event.neighbor == other)
            self.links.forget(actor, event)
            self.tell(actor, event)
        elif kind == "flush":
            for packet in self.links.sent_by(actor):
                packet.leave()
            self.tell(actor, ev.Flushed())
        else:
            self.tell(actor, self._scenario.complete(actor, self.work.pop(actor)))

    def take_turns(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let the processes take turns, each doing the first thing that it can."""
        for _ in range(MAX_STEPS):
            options = self.options()
            if until() or not options:
                return
            self.do(self._fair(options))
        raise ContractError("the processes continue without end")

    def advance(self, choice: int | None = None) -> bool:
        """Let what is due happen, or an event (by number, or in turn), or time pass.

        False where nothing is left to happen.
        """
        if self.pass_time(until=self.now):
            return True
        options = self.options()
        if not options:
            return self.pass_time()
        fair = self._fair(options)
        self.do(fair if choice is None else options[choice % len(options)])
        return True

    def pass_time(self, until: float = math.inf) -> bool:
        """Let the clock run to the next deadline or news of a link, if not after `until`."""
        awake = [me for me in self.live if me not in self.paused]
        news = [(when, me, False) for me in awake for when, _ in self.links.events[me] if when > self.now]
        ticks = [(self._deadlines[me], me, True) for me in awake]
        when, me, is_tick = min([*news, *ticks], default=(math.inf, 0, False))
        if when > until or math.isinf(when):
            return False
        self.now = max(self.now, when)
        if is_tick:
            self.tell(me, ev.Tick())
        return True

    def _fair(self, options: Sequence[Step]) -> Step:
        self._turn += 1
        return min(options, key=lambda step: ((step.actor - self._turn) % self._scenario.processes, step))

    def _learnable(self, me: int) -> Iterator[LinkEvent]:
        """The next news of each of a process's links that it can learn now."""
        seen: set[int] = set()
        for when, event in self.links.events[me]:
            is_early = when > self.now or event.neighbor in seen
            seen.add(event.neighbor)
            # A process that is gone may have said something last.
            unread = isinstance(event, ev.Lost) and self.links.between(event.neighbor, me).unread
            if not is_early and not unread:
                yield event

    # From outside

    def kill(self, me: int, kept: int | None = None) -> None:
        """Kill a process; the first `kept` messages under way on each link (all) arrive."""
        if me in self.live:
            del self.logics[me]
            self.work.pop(me, None)
            self.paused.discard(me)
            self._end_links(me, kept)

    def restart(self, me: int) -> None:
        """Start a process again that was killed."""
        if me not in self.logics:
            self.logics[me] = self._scenario.build(me, True)
            self.links.reopen(me, self.now)
            self._connect(me)
            self.tell(me, ev.Started())

    def pause(self, me: int) -> None:
        """Let a process do nothing until it is woken; what is sent to it waits."""
        if me in self.live:
            self.paused.add(me)

    def wake(self, me: int) -> None:
        """Let a process continue."""
        self.paused.discard(me)

    def cut(self, a: int, b: int, kept: int = 0, lost: int | None = None, heals: bool = True) -> None:
        """Break the link from one process to another, as `Link.cut` does.

        `heals`: it may stand again at any time; otherwise not before `heal`.
        """
        if a in self.live and self.links.cut(a, b, self.now, kept, lost) and heals:
            self._healing.add((a, b))

    def heal(self, a: int, b: int) -> None:
        """Restore a link that was cut."""
        self._healing.discard((a, b))
        if a in self.live and b in self.live:
            self.links.heal(a, b, self.now)

    def cut_both(self, a: int, b: int) -> None:
        """Break the links of two processes in both directions, until `heal_both`."""
        for sender, receiver in ((a, b), (b, a)):
            self.cut(sender, receiver, heals=False)

    def heal_both(self, a: int, b: int) -> None:
        """Restore the links of two processes."""
        for sender, receiver in ((a, b), (b, a)):
            self.heal(sender, receiver)

    def drop(self, a: int, b: int, which: int) -> None:
        """Lose a message under way though the link stands: any but a greeting or goodbye."""
        under_way = self.links.between(a, b).under_way
        if under_way and under_way[which % len(under_way)].kind not in SPARED:
            del under_way[which % len(under_way)]

    def damage(self, a: int, b: int, which: int) -> None:
        """Damage a message under way: any but a greeting or goodbye."""
        under_way = self.links.between(a, b).under_way
        if under_way and under_way[which % len(under_way)].kind not in SPARED:
            under_way[which % len(under_way)].damage()

    def repeat(self, a: int, b: int, which: int) -> None:
        """Deliver once more what a link has delivered before."""
        if delivered := self.links.between(a, b).delivered:
            self.tell(b, delivered[which % len(delivered)].event())

    def tick(self, me: int) -> None:
        """Let time pass until a process's deadline, and tell it."""
        self.now = max(self.now, self.logics[me].deadline)
        self.tell(me, ev.Tick())

    # Inside

    def tell(self, me: int, event: ev.Event) -> None:
        """Tell a process an event, and carry out its actions."""
        if me not in self.logics:
            return
        logic = self.logics[me]
        actions = logic.handle(event, self.now)
        self._deadlines[me] = logic.deadline
        (self._flushing.add if logic.wants_flush else self._flushing.discard)(me)
        if me in self.ended and actions:
            raise ContractError(f"process {me} has ended, and still does {actions}")
        for action in actions:
            self._carry_out(me, action)
        self._scenario.check(me, actions)

    def _carry_out(self, me: int, action: ev.Action) -> None:
        if isinstance(action, ev.Send):
            self.links.between(me, action.neighbor).send(action.message, self.now)
        elif isinstance(action, ev.Discard):
            self.links.between(me, action.neighbor).under_way.clear()
        elif isinstance(action, ev.Train | ev.RoundDone):
            if me in self.work:
                raise ContractError(f"process {me} is at work, and is told to {action}")
            self.work[me] = action
            self._scenario.begin(me, action)
        elif isinstance(action, ev.Note):
            self.notes.append((me, action))
        else:
            # Links that may stand again at any time do so now: the last messages of a process are not lost with them.
            for a, b in sorted(ends for ends in self._healing if ends[0] == me):
                self.heal(a, b)
            self.ended[me] = action
            self.work.pop(me, None)
            self._end_links(me, None)

    def _end_links(self, me: int, kept: int | None) -> None:
        self._healing = {ends for ends in self._healing if me not in ends}
        self.links.close(me, self.now, kept)

    def _connect(self, me: int) -> None:
        self.links.open_to(me, sorted(self.logics[me].context.links), self.now)
