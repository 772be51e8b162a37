"""Socket of the directory service: admits holders of the token, answers requests.

Strangers are kept out as by the peers' own sockets: no message of theirs is read, their connections are limited, and
those of peers that send too much are closed. Weights never pass through it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable

import networkx as nx
import zmq

from p2pfl.errors import P2PFLError, Refusal, TransportError
from p2pfl.protocol import events
from p2pfl.rendezvous.archive import Archive, ArchiveError
from p2pfl.rendezvous.entry import Entry, topology_digest
from p2pfl.rendezvous.state import DirectoryState
from p2pfl.rendezvous.token_keys import collector_pair, peer_pair
from p2pfl.rendezvous.wire import (
    REASON_CHARACTERS,
    REQUEST_BYTES,
    Announce,
    Answer,
    Browse,
    Query,
    Refused,
    Request,
    Store,
    Stored,
    Withdraw,
    decode_request,
    encode,
)
from p2pfl.topology import Topology
from p2pfl.transport import Keys
from p2pfl.transport.admission import HANDSHAKE_MS, Admission
from p2pfl.transport.connections import Connection
from p2pfl.transport.watchdog import Watchdog

GRACE_SECONDS = 10.0  # as that of peers by default: a peer that was closed is barred for a quarter of it
ANSWERS = 4  # that may wait for a slow peer; it asks again
BATCH = 256  # requests answered in one turn
REPORT_SECONDS = 10.0  # between two lines about what was refused
_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RCVHWM: 0,  # as in `transport.zeromq`
    zmq.SNDHWM: ANSWERS,
    zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.IPV6: 1,
}


class Service:
    """Directory service of one topology. Use as a context manager, on one thread."""

    def __init__(
        self,
        topology: Topology,
        bind: str,
        pair: tuple[str, str],
        token: str,
        say: Callable[[str], None],
        archive: Archive | None = None,
    ) -> None:
        """Bind to `tcp://HOST:PORT`, where `*` stands for all addresses or any free port.

        `pair`: its public and secret key, in Z85. `archive`: where the peers' records are kept. Raises TransportError
        naming the endpoint.
        """
        self._names = topology.names
        self._archive = archive
        links = {peer: frozenset(nx.all_neighbors(topology.graph, peer)) for peer in range(topology.n)}
        self._state = DirectoryState(topology_digest(topology), links, archive is not None)
        self._say = say
        self._is_complete = self._is_probed = False
        self._refused: Counter[str] = Counter()
        self._reported = time.monotonic()
        peers = {peer: peer_pair(token, peer)[0] for peer in range(topology.n)}
        keys = Keys(*pair, {**peers, topology.n: collector_pair(token)[0]})
        self._sealing = keys.sealing
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        for option, value in _OPTIONS.items():
            self._router.setsockopt(option, value)
        self._router.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES + keys.sealing)
        self._admission = Admission(self._context, self._router, keys, GRACE_SECONDS)
        self._watchdog = Watchdog(self._admission)
        try:
            self._router.bind(bind)
        except zmq.ZMQError as error:
            self.close()
            why = zmq.strerror(error.errno) if error.errno is not None else str(error)
            raise TransportError(f"--bind {bind}: cannot be opened ({why}); choose another address or port") from None
        port = self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        self.endpoint = f"{bind.rpartition(':')[0]}:{port}"

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def turn(self, seconds: float) -> None:
        """Wait up to `seconds` for requests, and answer them."""
        self._watchdog.measure()
        drained = self._receive() if self._router.poll(math.ceil(1000 * seconds)) else True
        self._watchdog.enforce(drained)
        for one in self._admission.refusals():
            if one.code is not Refusal.UNFINISHED:
                self._refused[f"{one.code}: {one.detail}"] += 1
            elif not self._is_probed:  # once: a probe of the port, as of Kubernetes, comes every few seconds
                self._is_probed = True
                self._refused[f"{one.code}: {one.detail}; no more is said of such"] += 1
        self._report()

    def close(self) -> None:
        """Close the socket."""
        self._admission.close()
        self._router.close(0)
        self._context.term()

    def _receive(self) -> bool:
        """Answer a batch of requests; True if none are left."""
        for _ in range(BATCH):
            try:
                identity = self._router.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            frames, size, first = 0, 0, b""
            more = True
            while more:
                frame = self._router.recv(copy=False)
                sealed, more = frame.buffer.nbytes + self._sealing, bool(frame.more)
                frames, size = frames + 1, size + sealed + (2 if sealed < 256 else 9)  # ZeroMQ's prefix of the frame
                first = frame.bytes if frames == 1 else first
            self._take(identity, first if frames == 1 else b"", frames, size)
        return False

    def _take(self, identity: zmq.Frame, data: bytes, frames: int, size: int) -> None:
        """Answer a message of a peer, or close its connection if it is no request."""
        connection = self._connection(identity)
        if connection is None or connection.neighbor is None:
            return  # it has ended
        self._watchdog.count_message(connection, frames, size)
        request = decode_request(data)
        if request is None:
            self._admission.close_connection(connection, events.Refused(Refusal.HEADER, "no request"))
            return
        answer = self._answer(connection.neighbor, request)
        with contextlib.suppress(zmq.ZMQError):  # gone
            self._router.send_multipart([identity.bytes, encode(answer)], zmq.NOBLOCK)

    def _answer(self, sender: int, request: Request) -> Answer:
        """Answer a request of a peer, or of a collector.

        The number of a collector is the one after the peers'.
        """
        is_collector = sender == len(self._names)
        if isinstance(request, Announce | Query | Withdraw):
            if is_collector:
                return Refused(request.number, "a collector is no peer")
            before = self._state.entry(sender)
            answer = self._state.handle(sender, request)
            self._say_changes(sender, before)
            return answer
        try:
            if self._archive is None:
                raise ArchiveError("it keeps no records; start it with --records DIR")
            if isinstance(request, Store):
                entry = None if is_collector else self._state.entry(sender)
                if entry is None or entry.process != request.process:
                    raise ArchiveError("another process is announced as this peer")
                self._archive.store(sender, entry.identity.start, request)
                return Stored(request.number, self._state.service)
            if not is_collector:
                raise ArchiveError("a peer does not collect")
            if isinstance(request, Browse):
                return self._archive.listing(request.start, request.number, request.first)
            return self._archive.part(request)
        except P2PFLError as error:
            return Refused(request.number, str(error)[:REASON_CHARACTERS])

    def _say_changes(self, peer: int, before: Entry | None) -> None:
        after = self._state.entry(peer)
        if before != after:
            self._say(f"peer {self._names[peer]} " + (f"announces {after.address}" if after else "has left"))
            self._say_if_complete()

    def _connection(self, identity: zmq.Frame) -> Connection | None:
        number: int | None = None
        with contextlib.suppress(zmq.ZMQError):
            number = int(identity.get(zmq.SRCFD))
        return self._admission.connection(str(identity.get("User-Id")), number)

    def _say_if_complete(self) -> None:
        is_complete = self._state.announced == len(self._names)
        if is_complete and not self._is_complete:
            self._say(f"all {len(self._names)} peers have announced themselves")
        self._is_complete = is_complete

    def _report(self) -> None:
        """Say what was refused, now and then."""
        now = time.monotonic()
        if self._refused and now >= self._reported + REPORT_SECONDS:
            self._say("refused: " + ", ".join(f"{what} ({count})" for what, count in sorted(self._refused.items())))
            self._refused.clear()
            self._reported = now
