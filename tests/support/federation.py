"""A coordinator and its clients without sockets, threads or clocks, whose every step a test chooses.

Messages are encoded and decoded. A body stays a view of the sender's buffer until it is delivered or its sender is
told that everything is flushed, so a buffer that changes too early shows. A link that breaks loses what was under way
on it, but for a part that the receiver has taken in already and reads later, beside what the new link brings; that is
how ZeroMQ behaves.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from tests.support.peer_network import Flying
from torch import Tensor

from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.payload import Payload
from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import (
    Action,
    Event,
    Fail,
    Finish,
    Flushed,
    Lost,
    Reconnected,
    Recorded,
    RoundDone,
    Send,
    Started,
    Tick,
    Train,
    Trained,
)
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.server_exchange import Federation

Step = tuple[str, int, int]
NO_END = 1e9


@dataclass(frozen=True)
class Setting:
    """What a network runs. Vectors have `size` elements; `sizes` weigh the clients (all alike if empty)."""

    clients: int
    selected: int
    rounds: int = 3
    size: int = 12
    codec: str = "fp32"
    sizes: tuple[float, ...] = ()
    min_updates: int = 1
    seed: int = 0
    deadline: float | None = NO_END
    round_timeout: float = NO_END

    @property
    def federation(self) -> Federation:
        sizes = self.sizes or (1.0,) * self.clients
        return Federation(sizes, self.selected, self.seed, self.min_updates, self.deadline)

    def initial(self) -> Tensor:
        return torch.linspace(-1, 1, self.size)

    def context(self, me: int) -> PeerContext:
        star = frozenset({self.clients}) if me < self.clients else frozenset(range(self.clients))
        return PeerContext(
            me=me,
            names=[*(f"c{client}" for client in range(self.clients)), "coordinator"],
            links=star,
            training_rounds=self.rounds,
            consensus_rounds=0,
            run="run",
            layout="layout",
            timeouts=Timeouts(None, NO_END, NO_END, self.round_timeout),
        )


def train(x: Tensor, client: int, round: int) -> None:
    """Half of a round's made-up local training, in place."""
    x.mul_(0.9).add_(torch.arange(x.numel()).cos(), alpha=0.1 * (client + 1) / round)


@dataclass(frozen=True)
class Done:
    """A round as the coordinator recorded it."""

    x: Tensor
    selected: list[int]
    missing: list[int]
    samples: int


def dense(setting: Setting, before: Tensor, round: int, folded: Sequence[int], selected: Sequence[int]) -> Tensor:
    """The next global model, Σ p_k x_k in client order, p_k shares of those selected; no messages, no machines."""
    weights = setting.federation.weights
    sent = before if setting.codec == "fp32" else before.bfloat16().float()
    total = torch.zeros_like(before)
    share = 0.0
    for client in folded:
        x = sent.clone()
        train(x, client, round)
        train(x, client, round)
        p = weights[client] / math.fsum(weights[k] for k in selected)
        share += p
        total.add_(x if setting.codec == "fp32" else x.bfloat16().float(), alpha=p)
    if len(folded) < len(selected):
        total /= share
    return total if setting.codec == "fp32" else total - sent + before


class Watched(ServerAverage):
    """Notes who is folded: updates carry their client's number as their loss."""

    def __init__(self, x: Tensor, codec: str) -> None:
        super().__init__(x, torch.zeros_like(x), wire_dtype=codec)
        self.folded: list[int] = []

    def outgoing(self) -> Payload:
        self.folded = []
        return super().outgoing()

    def accumulate(self, payload: Payload, weight: float) -> None:
        self.folded.append(int(payload.scalars["loss"]))
        super().accumulate(payload, weight)


@dataclass
class Pipe:
    """One direction of a connection. `old`: what a broken one has brought and the receiver has not read yet."""

    new: deque[Flying] = field(default_factory=deque)
    old: deque[Flying] = field(default_factory=deque)
    delivered: list[Flying] = field(default_factory=list)
    down: bool = False


class Network:
    """All processes of a setting; `options` are the steps that are possible now, `do` takes one.

    Clients are numbered from 0, and the coordinator, `hub`, comes last. Ticks are no option: see `tick`.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.hub = setting.clients
        self.frozen: set[int] = set()  # processes that do nothing for now; what is sent to them waits
        self.now = 0.0
        self.server = Watched(setting.initial(), setting.codec)
        self.coordinator = Coordinator(setting.context(self.hub), setting.federation, self.server)
        self.vectors = [setting.initial() for _ in range(setting.clients)]
        self.clients = [Client(setting.context(me), x, setting.codec) for me, x in enumerate(self.vectors)]
        ends = [(me, self.hub) for me in range(setting.clients)]
        self.pipes = {(a, b): Pipe() for end in ends for a, b in (end, end[::-1])}
        self.work: dict[int, Action] = {}
        self.ended: dict[int, Action] = {}
        self.done: dict[int, Done] = {}
        self.told: set[tuple[int, int]] = set()  # who has noticed whose end
        self.notes: list[Action] = []
        self.granted: Counter[tuple[int, int]] = Counter()
        for me in range(self.hub + 1):
            self.tell(me, Started())

    @property
    def live(self) -> list[int]:
        """Clients that go on."""
        return [client for client in range(self.hub) if client not in self.ended]

    def unhurt(self, *without: int) -> list[int]:
        """Clients of this round that are not given up."""
        progress = self.coordinator.progress
        return [client for client, where in progress.items() if where != "missing" and client not in without]

    def in_time(self) -> list[int]:
        """Clients of this round that have nothing to fear from the deadline."""
        return [c for c in self.unhurt() if self.coordinator.progress[c] in ("offering", "granted", "folded")]

    def logic(self, me: int) -> Client | Coordinator:
        return self.coordinator if me == self.hub else self.clients[me]

    def options(self) -> list[Step]:
        """Every step that could come next, in a fixed order."""
        steps: list[Step] = []
        for (a, b), pipe in self.pipes.items():
            if b in self.ended or b in self.frozen:
                continue
            steps += [("old", a, b)] * bool(pipe.old)
            steps += [("deliver", a, b)] * (bool(pipe.new) and not pipe.down)
            steps += [("mend", a, b)] * (pipe.down and a not in self.ended and a not in self.frozen)
            silent = pipe.down or not pipe.new
            steps += [("gone", b, a)] * (a in self.ended and silent and not pipe.old and (b, a) not in self.told)
        steps += [("work", me, me) for me in self.work if me not in self.frozen]
        steps += [("flush", c, c) for c in self.live if c not in self.frozen and self.clients[c].wants_flush]
        steps += [("flush", self.hub, self.hub)] * (self.hub not in self.ended and self.coordinator.wants_flush)
        return sorted(steps, key=lambda step: (step[1], step))

    def do(self, step: Step) -> None:
        self.now += 1.0
        kind, a, b = step
        table: dict[str, Callable[[int, int], None]] = {
            "deliver": lambda a, b: self._arrive(a, b, self.pipes[a, b].new),
            "old": lambda a, b: self._arrive(a, b, self.pipes[a, b].old),
            "mend": self.mend,
            "gone": self._gone,
            "work": self._work,
            "flush": self._flush,
        }
        table[kind](a, b)

    def _arrive(self, a: int, b: int, queue: deque[Flying]) -> None:
        flying = queue.popleft()
        self.pipes[a, b].delivered.append(flying)
        self.tell(b, flying.arrive())

    def _gone(self, me: int, other: int) -> None:
        self.told.add((me, other))
        self.tell(me, Lost(other))

    def _work(self, me: int, _: int) -> None:
        action = self.work.pop(me)
        if isinstance(action, Train):
            train(self.vectors[me], me, action.round)
            self.tell(me, Trained(loss=float(me), samples=me + 1))
            return
        assert isinstance(action, RoundDone)
        if me == self.hub:
            self._note_round(action.round)
        self.tell(me, Recorded())

    def _note_round(self, round: int) -> None:
        facts = self.coordinator.facts
        number = {name: index for index, name in enumerate(self.coordinator.context.names)}
        selected, missing = ([number[name] for name in facts[key]] for key in ("selected", "missing"))
        self.done[round] = Done(self.server.x.clone(), selected, missing, facts["samples"])
        assert self.server.folded == [client for client in selected if client not in missing]

    def _flush(self, me: int, _: int) -> None:
        for (sender, _), pipe in self.pipes.items():
            for flying in [*pipe.new, *pipe.old] if sender == me else ():
                flying.land()
        self.tell(me, Flushed())

    # What a test does to it

    def tick(self) -> None:
        """The coordinator's patience ends."""
        self.now = max(self.now, self.coordinator.deadline)
        self.tell(self.hub, Tick())

    def wait(self) -> None:
        """Time passes until somebody's next deadline."""
        machines = [me for me in range(self.hub + 1) if me not in self.ended and me not in self.frozen]
        self.now = max(self.now, min(self.logic(me).deadline for me in machines))
        for me in machines:
            self.tell(me, Tick())

    def drop(self, a: int, b: int, which: int) -> None:
        """A message under way gets lost though the link stands."""
        under_way = self.pipes[a, b].new
        if under_way and under_way[which % len(under_way)].message.header.kind not in ("hello", "goodbye"):
            del under_way[which % len(under_way)]

    def cut(self, a: int, b: int, kept: int = 0) -> None:
        """The link from a to b breaks; the first `kept` messages under way have arrived, the others are lost."""
        pipe = self.pipes[a, b]
        if pipe.down or a in self.ended:
            return
        while pipe.new and kept > 0:
            pipe.new[0].land()
            pipe.old.append(pipe.new.popleft())
            kept -= 1
        pipe.new.clear()
        pipe.down = True

    def mend(self, a: int, b: int) -> None:
        self.pipes[a, b].down = False
        self.tell(a, Reconnected(b))

    def lose(self, client: int) -> None:
        """The coordinator gives up its link to a client, which may come back."""
        self.cut(self.hub, client)
        self.tell(self.hub, Lost(client))

    def kill(self, client: int) -> None:
        """A client's process dies: what it said last may arrive, and then the coordinator loses it."""
        self.ended[client] = Fail("killed")
        self.work.pop(client, None)

    def repeat(self, a: int, b: int, which: int) -> None:
        """Deliver once more what a link delivered before; its last message if that was part of a vector."""
        old = self.pipes[a, b].delivered
        if not old or a in self.ended or b in self.ended:
            return
        flying = old[which % len(old)]
        if flying.message.header.kind == "goodbye":
            return
        if flying.message.header.kind == "chunk" and flying.message.header.round >= self.coordinator.round:
            flying = old[-1]  # within a vector a link keeps its order
        self.tell(b, flying.arrive())

    def tell(self, me: int, event: Event) -> None:
        if me in self.ended:
            return
        for action in self.logic(me).handle(event, self.now):
            if isinstance(action, Send):
                header = action.message.header
                if me == self.hub and header.kind == "grant":
                    self.granted[header.round, action.neighbor] += 1
                self.pipes[me, action.neighbor].new.append(Flying(action.message))
            elif isinstance(action, Train | RoundDone):
                assert me not in self.work, "one thing at a time"
                self.work[me] = action
                if isinstance(action, Train):
                    assert action.load
                    train(self.vectors[me], me, action.round)  # half now, half when it is done
            elif isinstance(action, Finish | Fail):
                assert me not in self.ended
                self.ended[me] = action
                self.work.pop(me, None)
            else:
                self.notes.append(action)
        self._check_window()

    def _check_window(self) -> None:
        """At most four updates are granted and not folded, and none beyond the fourth that is still owed."""
        coordinator = self.coordinator
        assert coordinator.channel.inbox.outstanding <= WINDOW
        owed = [c for c, where in coordinator.progress.items() if where not in ("folded", "missing")]
        granted = [c for c in owed if (coordinator.round, c) in self.granted]
        assert set(granted) <= set(owed[:WINDOW])

    # What must have come out

    def check(self) -> None:
        """Every round is the average of those that were in time, bit for bit, and everybody has ended well."""
        assert self.ended[self.hub] == Finish()
        assert len(self.ended) == self.hub + 1
        x, samples = self.setting.initial(), 0
        assert list(self.done) == list(range(1, self.setting.rounds + 1))
        for round, done in self.done.items():
            folded = [client for client in done.selected if client not in done.missing]
            assert len(set(done.selected)) == self.setting.selected
            x = dense(self.setting, x, round, folded, done.selected)
            assert torch.equal(done.x, x), f"round {round}"
            samples += sum(client + 1 for client in folded)
            assert done.samples == samples


def in_order(network: Network, until: Callable[[Network], bool] = lambda network: False) -> None:
    """The processes take turns, and each does the first thing that it can."""
    turn = 0
    while not until(network) and (options := network.options()):
        turn += 1
        assert turn < 50_000, "they go on for ever"
        network.do(min(options, key=lambda step: ((step[2] - turn) % (network.hub + 1), step)))
