"""Coordinator and clients: every order of events ends with the same bits."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.federated_scenario import Clients, Setting
from tests.support.helpers import THOROUGHNESS

from p2pfl.protocol import wire
from p2pfl.protocol.events import Fail, Finish, Lost
from p2pfl.protocol.server_exchange import select_clients
from p2pfl.sim.interleaving import Interleaving

MAX_STEPS = 20_000
schedules = st.binary(min_size=1, max_size=40)


@st.composite
def settings_of(draw: st.DrawFn, rounds: int = 3) -> Setting:
    clients = draw(st.integers(1, 7))
    selected = draw(st.integers(1, clients))
    codec = draw(st.sampled_from(["fp32", "bf16"]))
    sizes = tuple(float(1 + client % 3) for client in range(clients)) if draw(st.booleans()) else ()
    return Setting(clients, selected, rounds, codec=codec, sizes=sizes, seed=draw(st.integers(0, 3)))


class Network:
    """Coordinator and clients, and what happens to them."""

    def __init__(self, made: Setting) -> None:
        self.clients = Clients(made)
        self.hub, self.coordinator, self.done = made.clients, self.clients.coordinator, self.clients.done
        self.run = Interleaving(self.clients)

    def check(self) -> None:
        self.clients.check_finished(self.run)

    def until_round(self, round: int) -> None:
        self.run.take_turns(lambda: self.coordinator.round >= round)

    def lose(self, client: int) -> None:
        """Let the coordinator give up its link to a client, which may come back."""
        self.run.cut(self.hub, client)
        self.run.tell(self.hub, Lost(client))

    def repeat(self, a: int, b: int, which: int) -> None:
        """Deliver again what a link has delivered; its last message if amid a vector."""
        delivered = self.run.links.between(a, b).delivered
        if not delivered or not {a, b} <= set(self.run.live):
            return
        packet = delivered[which % len(delivered)]
        is_early = packet.kind == "chunk" and packet.round >= self.coordinator.round
        if packet.kind != "goodbye":
            self.run.repeat(a, b, -1 if is_early else which)


def scheduled(
    network: Network, schedule: bytes, faults: bytes = b"", rounds: int | None = None, steps: int | None = None
) -> None:
    """Pick events by the bytes of a schedule, repeated; to the end, or so far.

    Each byte of the faults, once, is a disturbance before one of the first events: a message delivered again, a link
    that breaks, a client that is given up, or a timeout.
    """
    for count in range(MAX_STEPS):
        if count % 3 == 0 and count // 3 < len(faults):
            disturb(network, faults[count // 3])
        options = network.run.options()
        if not options or count == steps or (rounds is not None and network.coordinator.round > rounds):
            return
        network.run.do(options[schedule[count % len(schedule)] % len(options)])
    raise AssertionError("they continue without end")


def disturb(network: Network, fault: int) -> None:
    kind, which = fault % 8, fault // 8
    client = which % network.hub
    there, back = (client, network.hub), (network.hub, client)
    if kind == 0:
        network.repeat(*there, which=which)
    elif kind == 1:
        network.repeat(*back, which=which)
    elif kind in (2, 3):
        network.run.cut(*(there if kind == 2 else back), kept=which % 3, lost=None if which % 5 else 1)
    elif kind == 4:
        network.run.cut(*there, kept=which % 3)
        network.run.cut(*back, kept=which % 2)
    elif kind == 5 and len(network.clients.unhurt(client)) > 0:
        network.lose(client)
    elif kind == 6 and network.coordinator.stage == "working" and len(network.clients.in_time()) > 0:
        network.run.tick(network.hub)
    else:
        network.repeat(*(back if which % 2 else there), which=-1)


@pytest.mark.parametrize(("clients", "selected"), [(1, 1), (4, 3), (7, 7), (7, 2)])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_in_order(clients: int, selected: int, codec: str) -> None:
    network = Network(Setting(clients, selected, codec=codec))
    network.run.take_turns()
    network.check()
    assert not network.run.notes
    assert all(done.missing == [] for done in network.done.values())
    taken = Counter(client for done in network.done.values() for client in done.selected)
    for client in range(clients):
        there, back = (
            +network.run.links.between(*link).sent for link in ((client, network.hub), (network.hub, client))
        )
        n = taken[client]
        # Nothing is said twice. The last credit may be granted after the coordinator has ended.
        assert there["grant"] in (n, n + 1)
        del there["grant"]
        assert there == +Counter({"hello": 1, "ack": n, "offer": n, "chunk": n})
        assert back == +Counter({"hello": 1, "chunk": n, "grant": n, "ack": n, "goodbye": 1})


@settings(max_examples=25 * THOROUGHNESS)
@given(setting=settings_of(), schedule=schedules, chunk=st.sampled_from([16, 1 << 20]))
def test_any_order_of_arrival(setting: Setting, schedule: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", chunk)
        network = Network(setting)
        scheduled(network, schedule)
    network.check()
    assert set(network.run.ended.values()) == {Finish()}
    assert not network.run.notes
    assert all(done.missing == [] for done in network.done.values())


@settings(max_examples=25 * THOROUGHNESS)
@given(setting=settings_of(), schedule=schedules, faults=st.binary(max_size=60), chunk=st.sampled_from([16, 1 << 20]))
def test_broken_links_and_repeated_messages_change_nothing(
    setting: Setting, schedule: bytes, faults: bytes, chunk: int
) -> None:
    """Links come back before a client is lost, so nobody is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", chunk)
        network = Network(setting)
        scheduled(network, schedule, bytes(fault for fault in faults if fault % 8 not in (5, 6)))
    network.check()
    assert all(done.missing == [] for done in network.done.values())


@settings(max_examples=25 * THOROUGHNESS)
@given(setting=settings_of(), schedule=schedules, faults=st.binary(max_size=60), chunk=st.sampled_from([16, 1 << 20]))
def test_messages_lost_on_links_that_stand_are_asked_for_again(
    setting: Setting, schedule: bytes, faults: bytes, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", chunk)
        network = Network(setting)
        for count in range(MAX_STEPS):
            if count < len(faults):
                which, client = divmod(faults[count] // 2, network.hub)
                link = (client, network.hub)
                network.run.drop(*(link if faults[count] % 2 else link[::-1]), which=which)
            if options := network.run.options():
                network.run.do(options[schedule[count % len(schedule)] % len(options)])
            elif network.run.live:
                network.run.pass_time()
            else:
                break
    network.check()
    assert set(network.run.ended.values()) == {Finish()}
    assert all(done.missing == [] for done in network.done.values())


def after(steps: int, setting: Setting) -> Network:
    """A network that has done so many steps in order."""
    network = Network(setting)
    left = iter(range(steps))
    network.run.take_turns(lambda: next(left, None) is None)
    return network


SMALL = Setting(3, 3, rounds=6)


@pytest.mark.parametrize("side", ["client's", "coordinator's", "both"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_connection_that_breaks_at_any_single_point(monkeypatch: pytest.MonkeyPatch, side: str, kept: int) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 16)
    made = replace(SMALL, rounds=2)
    for steps in range(10_000):
        network = after(steps, made)
        if network.hub in network.run.ended:
            assert steps > 80
            return
        if side != "coordinator's":
            network.run.cut(1, network.hub, kept)
        if side != "client's":
            network.run.cut(network.hub, 1, kept)
        network.run.take_turns()
        network.check()
        assert network.done[1].missing == network.done[2].missing == []


def test_a_client_that_stops_at_any_single_point_is_missing_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up in one round, it continues two rounds later."""
    monkeypatch.setattr(wire, "CHUNK_BYTES", 16)
    for steps in range(5, 10_000):
        network = after(steps, SMALL)
        stopped = network.coordinator.round
        if stopped == 3:
            return
        network.run.pause(1)
        while network.coordinator.round < stopped + 2:
            network.until_round(stopped + 2)
            if network.coordinator.round < stopped + 2:
                network.run.tick(network.hub)
        assert network.done[stopped].missing in ([], [1])  # it may have delivered already
        assert network.done[stopped + 1].missing == [1]
        network.run.wake(1)
        network.run.take_turns()
        network.check()
        assert network.done[stopped + 2].missing == []
        assert network.done[6].missing == []


STORM = 3  # rounds


@settings(max_examples=25 * THOROUGHNESS)
@given(
    setting=settings_of(rounds=STORM + 4),
    schedule=schedules,
    faults=st.binary(max_size=100),
    chunk=st.sampled_from([16, 1 << 20]),
    dead=st.integers(0, 20),
)
def test_whoever_was_late_or_lost_takes_part_again(
    setting: Setting, schedule: bytes, faults: bytes, chunk: int, dead: int
) -> None:
    """After a disturbed beginning nobody is missing but the dead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", chunk)
        network = Network(replace(setting, selected=setting.clients))
        scheduled(network, schedule, faults, rounds=STORM)
        if dead < setting.clients and dead in network.run.live and setting.clients > 1:
            network.run.kill(dead)
        network.run.take_turns()
    if isinstance(end := network.run.ended.get(network.hub), Fail):
        assert "0 of" in end.reason
        return
    network.check()
    killed = [client for client in range(network.hub) if client not in network.run.logics]
    for round in range(STORM + 3, setting.rounds + 1):
        assert network.done[round].missing == killed


@settings(max_examples=25 * THOROUGHNESS)
@given(
    setting=settings_of(rounds=4),
    schedule=schedules,
    faults=st.binary(max_size=100),
    chunk=st.sampled_from([16, 1 << 20]),
    deaths=st.lists(st.integers(0, 6), max_size=2),
    least=st.integers(1, 4),
)
def test_every_schedule_ends(
    setting: Setting, schedule: bytes, faults: bytes, chunk: int, deaths: list[int], least: int
) -> None:
    """Every round averages those in time, or a line says why not.

    Disturbances last until the end, clients die, and a minimum is asked for.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", chunk)
        network = Network(replace(setting, min_updates=min(least, setting.selected)))
        for death in deaths:
            scheduled(network, schedule, faults[: 10 * death], steps=40 * (death + 1))
            if death < network.hub and death in network.run.live:
                network.run.kill(death)
        scheduled(network, schedule, faults)
    assert not network.run.live
    end = network.run.ended[network.hub]
    if end == Finish():
        network.check()
        return
    assert isinstance(end, Fail)
    round, least = network.coordinator.round, network.clients.setting.min_updates
    drawn = select_clients(network.clients.setting.federation, round)
    came = len(network.clients.server.folded)
    assert came < least
    missing = ", ".join(f"c{client}" for client in drawn if client not in network.clients.server.folded)
    assert end.reason == (
        f"round {round}: {came} of {len(drawn)} updates came, and --min-updates asks for {least}; missing: {missing}"
    )


def test_clients_end_when_their_coordinator_stays_silent_on_connections_that_stand() -> None:
    network = Network(Setting(clients=3, selected=2, round_timeout=30.0))
    network.until_round(2)
    network.run.pause(network.hub)
    since = network.run.now
    while network.run.live != [network.hub]:
        network.run.take_turns()
        network.run.pass_time()
        assert network.run.now < since + 300.0
    assert network.run.now >= since + 4 * 30.0
    for client in range(3):
        end = network.run.ended[client]
        assert isinstance(end, Fail)
        assert end.resumable
        assert re.fullmatch(r"no message for 1\d\d s from the coordinator \(--round-timeout\)", end.reason)


def test_a_client_waits_without_limit_for_a_coordinator_that_answers() -> None:
    network = Network(Setting(clients=2, selected=1, rounds=1, round_timeout=30.0))
    network.run.take_turns(lambda: bool(network.coordinator.progress))
    (selected,) = network.coordinator.progress
    network.run.pause(selected)
    for _ in range(500):
        network.run.take_turns()
        network.run.pass_time()
    assert network.run.now > 1000.0
    assert not network.run.ended
    network.run.wake(selected)
    network.run.take_turns()
    network.check()
