"""Check of one peer before a run: whether it and its neighbors reach each other."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2pfl.config import RunConfig
from p2pfl.errors import P2PFLError
from p2pfl.experiment.meeting import addresses, link_credentials, open_meeting
from p2pfl.modes import Roles, assign_roles
from p2pfl.protocol.reachability import Reachability
from p2pfl.rendezvous.book import News, host_of
from p2pfl.rendezvous.meeting import RendezvousTransport
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.settings import resolve
from p2pfl.topology import Topology
from p2pfl.transport import ZmqTransport

_POLL_SECONDS = 0.1
_NOT_REACHED = {
    "unknown": "not looked for",
    "none": "not reached (no connection: nothing listens there, or a firewall is in between)",
    "connected": "not reached (it does not admit this peer: other keys or token, or another program)",
    "admitted": "not known to be reached (it admits this peer, and does not say that it hears it)",
}
Say = Callable[[str], None]


def _print_line(text: str) -> None:
    print(text, flush=True)


@dataclass
class _Check:
    """A check under way: its protocol, its open sockets, and where neighbors are.

    `is_known`: whether a neighbor has an address to be tried.
    """

    protocol: Reachability
    transport: ZmqTransport | RendezvousTransport
    names: dict[int, str]
    where: Callable[[int], str]
    is_known: Callable[[int], bool]

    def is_good(self, neighbor: int) -> bool:
        """Whether a neighbor is reached, and has reached this peer."""
        admitted = self.transport.stage(neighbor) == "admitted"
        return neighbor in self.protocol.heard and self.protocol.is_reached(neighbor, admitted)

    def finding(self, neighbor: int) -> str:
        """Line about a neighbor."""
        if self.is_good(neighbor):
            at_work = ", which is at work" if neighbor in self.protocol.working else ""
            return f"{self.where(neighbor)}{at_work}: reachable both ways"
        stage = self.transport.stage(neighbor)
        told = stage if self.is_known(neighbor) else "unknown"
        there = "reached" if self.protocol.is_reached(neighbor, stage == "admitted") else _NOT_REACHED[told]
        heard = neighbor in self.protocol.heard
        return f"{self.where(neighbor)}: {there}, and {'reaches' if heard else 'has not reached'} this peer"

    def run(self, seconds: float, say: Say) -> list[int]:
        """Exchange messages until all is well or time is up; returns who is missing."""
        deadline = time.monotonic() + seconds
        left = sorted(self.names)
        while left and (now := time.monotonic()) < deadline:
            sends = self.protocol.tick(now)
            for event in self.transport.poll(_POLL_SECONDS):
                sends += self.protocol.handle(event)
            for send in sends:
                self.transport.send(send.neighbor, send.message)
            for neighbor in [neighbor for neighbor in left if self.is_good(neighbor)]:
                say(self.finding(neighbor))
                left.remove(neighbor)
        for send in self.protocol.tell(sorted(self.names)):  # so that neighbors need not hear from this peer again
            self.transport.send(send.neighbor, send.message)
        return left


def check_reachability(
    topology: Topology, index: int, config: RunConfig, *, announce: str | None = None, say: Say = _print_line
) -> None:
    """Check that this peer and its neighbors, which do the same, reach each other.

    `say` gets a line for each neighbor. Waits for --start-timeout at most. Raises P2PFLError where a neighbor is not
    reachable both ways, and ConfigError for bad input.
    """
    config = resolve(config, topology, 1)
    roles = assign_roles(config, topology)
    name, count = topology.names[index], len(roles.links[index])
    with contextlib.ExitStack() as held:
        check = _opened(roles, index, config, announce, lambda text: say(f"peer {name}: {text}"), held)
        left = check.run(config.exchange.start_timeout, say)
        for neighbor in left:
            say(check.finding(neighbor))
    if left:
        missed = ", ".join(topology.names[neighbor] for neighbor in left)
        raise P2PFLError(
            f"peer {name}: {len(left)} of {count} neighbors not reachable both ways within "
            f"{config.exchange.start_timeout:g} s (--start-timeout): {missed}",
            remedy="all have to be started with --check at the same time",
        )
    say(f"peer {name}: every neighbor is reachable both ways")


def _opened(  # a context's stack beside what a peer is
    roles: Roles, index: int, config: RunConfig, announce: str | None, say: Say, held: contextlib.ExitStack
) -> _Check:
    """Open the peer's sockets as its run would, until `held` is closed.

    Raises what the run would raise.
    """
    topology, links = roles.topology, roles.links[index]
    names = {neighbor: topology.names[neighbor] for neighbor in sorted(links)}
    endpoints, announced = addresses(topology, index, config, announce)
    transport: ZmqTransport | RendezvousTransport
    if announced is None:
        credentials, _ = link_credentials(topology, index, config.exchange, links)
        transport = ZmqTransport(endpoints[index], config.exchange.grace_timeout, credentials)
        say(f"listens at {endpoints[index]}")
        where, is_known = _in_file(names, endpoints), lambda _: True
    else:
        meets = open_meeting(roles, index, config, announced, lambda news: say(_text(news)))
        meeting = held.enter_context(meets.meeting)
        meeting.give_way()
        transport = meets.open()
        where, is_known = meeting.place, lambda neighbor: neighbor in meeting.places
    held.enter_context(contextlib.closing(transport))
    transport.connect({neighbor: endpoints[neighbor] for neighbor in names}, 0)
    run = f"check-{run_fingerprint(roles, config)[:32]}"
    return _Check(Reachability(index, names, run), transport, names, where, is_known)


def _in_file(names: Mapping[int, str], endpoints: Mapping[int, str]) -> Callable[[int], str]:
    return lambda peer: f"peer {names[peer]} at {_known(endpoints[peer])}"


def _text(news: News) -> str:
    return f"{'warning: ' if news.matters else ''}{news.text}"


def _known(endpoint: str) -> str:
    """Endpoint, with the reason where its host has no address."""
    try:
        socket.getaddrinfo(host_of(endpoint), None)
    except OSError as error:
        return f"{endpoint} (host {host_of(endpoint)}: {error.strerror})"
    return endpoint
