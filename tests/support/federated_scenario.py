"""Coordinator and clients on small vectors, for the explorer of interleavings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tests.support.gossip_scenario import train
from torch import Tensor

from p2pfl.algorithms.fedavg import ServerAverage, ServerOptions
from p2pfl.payload import Payload
from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import Action, Finish, Recorded, RoundDone, Send, Train, Trained
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.logic import Logic
from p2pfl.protocol.server_exchange import Federation
from p2pfl.sim.interleaving import Interleaving

NO_END = 1e9


@dataclass(frozen=True)
class Setting:
    """Settings of a federation; `sizes` weigh the clients (all alike if empty)."""

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


@dataclass(frozen=True)
class Done:
    """A round as the coordinator recorded it."""

    x: Tensor
    selected: list[int]
    missing: list[int]
    samples: int


def dense(setting: Setting, before: Tensor, round: int, folded: Sequence[int], selected: Sequence[int]) -> Tensor:
    """The next global model, Σ p_k x_k in client order, without messages.

    p_k are shares of those selected.
    """
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
        super().__init__(x, torch.zeros_like(x), ServerOptions(wire_dtype=codec))
        self.folded: list[int] = []

    def outgoing(self) -> Payload:
        self.folded = []
        return super().outgoing()

    def accumulate(self, payload: Payload, weight: float) -> None:
        self.folded.append(int(payload.scalars["loss"]))
        super().accumulate(payload, weight)


class Clients:
    """All processes of a setting; the coordinator, `hub`, comes after the clients."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.hub, self.processes = setting, setting.clients, setting.clients + 1
        self.server = Watched(setting.initial(), setting.codec)
        self.coordinator = Coordinator(setting.context(self.hub), setting.federation, self.server)
        self.vectors = [setting.initial() for _ in range(setting.clients)]
        self.done: dict[int, Done] = {}
        self.granted: set[tuple[int, int]] = set()
        self.incarnations = [0] * self.processes

    def build(self, me: int, is_restarted: bool) -> Logic:
        if me == self.hub:
            return self.coordinator
        self.incarnations[me] += 1
        context = replace(self.setting.context(me), incarnation=self.incarnations[me])
        return Client(context, self.vectors[me], self.setting.codec)

    def begin(self, me: int, action: Train | RoundDone) -> None:
        if isinstance(action, Train):
            assert action.load
            train(self.vectors[me], me, action.round)  # half now, half when it is done

    def complete(self, me: int, action: Train | RoundDone) -> Trained | Recorded:
        if isinstance(action, Train):
            train(self.vectors[me], me, action.round)
            return Trained(loss=float(me), samples=me + 1)
        if me == self.hub:
            facts = self.coordinator.facts
            number = {name: index for index, name in enumerate(self.coordinator.context.names)}
            selected, missing = ([number[name] for name in facts[key]] for key in ("selected", "missing"))
            self.done[action.round] = Done(self.server.x.clone(), selected, missing, facts["samples"])
            assert self.server.folded == [client for client in selected if client not in missing]
        return Recorded()

    def check(self, me: int, actions: Sequence[Action]) -> None:
        """At most four updates have credit and are not folded, the first four owed."""
        for action in actions:
            if me == self.hub and isinstance(action, Send) and action.message.header.kind == "grant":
                self.granted.add((action.message.header.round, action.neighbor))
        coordinator = self.coordinator
        assert coordinator.channel.inbox.outstanding <= WINDOW
        owed = [c for c, where in coordinator.progress.items() if where not in ("folded", "missing")]
        granted = [c for c in owed if (coordinator.round, c) in self.granted]
        assert set(granted) <= set(owed[:WINDOW])

    def check_finished(self, run: Interleaving) -> None:
        """Every round is the average of those in time, bit for bit, and all have ended."""
        assert run.ended[self.hub] == Finish()
        assert not run.live
        x, samples = self.setting.initial(), 0
        assert list(self.done) == list(range(1, self.setting.rounds + 1))
        for round, done in self.done.items():
            folded = [client for client in done.selected if client not in done.missing]
            assert len(set(done.selected)) == self.setting.selected
            x = dense(self.setting, x, round, folded, done.selected)
            assert torch.equal(done.x, x), f"round {round}"
            samples += sum(client + 1 for client in folded)
            assert done.samples == samples

    # Who may be disturbed without the round having no update left

    def unhurt(self, *without: int) -> list[int]:
        """Clients of this round that are not given up."""
        progress = self.coordinator.progress
        return [client for client, where in progress.items() if where != "missing" and client not in without]

    def in_time(self) -> list[int]:
        """Clients of this round that a deadline does not affect."""
        return [c for c in self.unhurt() if self.coordinator.progress[c] in ("offering", "granted", "folded")]
