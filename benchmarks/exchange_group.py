"""Group of processes that average with their neighbors, and train nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Literal

from benchmarks import exchange_bare as bare
from benchmarks.exchange_pair import RUN, TIMEOUTS, KeyPairs, Loop, Transport, open_transport
from benchmarks.exchange_pool import Cost, Mark, Place, mean_cost
from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.model.vector import aligned_vector
from p2pfl.payload import ITEM_BYTES, VectorMemory
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.peer import Peer
from p2pfl.topology import make_topology, mixing_matrix, neighborhood

Who = Literal["p2pfl", "bare"]


@dataclass(frozen=True)
class Group:
    """Exchange of vectors of `size` numbers on a graph, in `rounds` measured rounds.

    `warm` rounds before them and one after them are not measured. The bare version has ipc sockets or tcp.
    """

    who: Who
    kind: str
    peers: int
    transport: Transport
    codec: str
    size: int
    layout: str
    rounds: int
    warm: int
    key_pairs: KeyPairs = field(default=(), repr=False)  # of CURVE; the bare version has none

    def run(self, place: Place) -> Cost:
        """Part of one process."""
        marks = (self._through_p2pfl if self.who == "p2pfl" else self._bare)(place)
        return mean_cost(marks[self.warm - 1 : self.warm + self.rounds])

    def _through_p2pfl(self, place: Place) -> list[Mark]:
        around = neighborhood(mixing_matrix(make_topology(self.kind, self.peers)), place.me)
        memory = VectorMemory()
        with contextlib.closing(open_transport(self.transport, place, self.key_pairs, memory)) as transport:
            endpoints = place.meet(transport.endpoint)
            context = PeerContext(
                me=place.me,
                names=tuple(map(str, range(self.peers))),
                links=frozenset(around.outgoing),
                training_rounds=self.warm + self.rounds + 1,
                consensus_rounds=0,
                run=RUN,
                layout=self.layout,
                timeouts=TIMEOUTS,
                memory=memory,
            )
            x = aligned_vector(self.size).normal_()
            peer = Peer(context, lambda round: around, x, DPSGD(wire_dtype=self.codec), Chebyshev(0.0))
            vector_bytes = self.size * ITEM_BYTES["fp32"]
            transport.connect({neighbor: endpoints[neighbor] for neighbor in around.outgoing}, vector_bytes)
            return Loop(peer, transport).run()

    def _bare(self, place: Place) -> list[Mark]:
        around = neighborhood(mixing_matrix(make_topology(self.kind, self.peers)), place.me)
        marks = []
        with bare.Sockets(place.bind(self.transport), place.me) as sockets:
            x = aligned_vector(self.size).normal_()
            mixer = bare.Mixer(sockets, x, around.self_weight, around.incoming, self.codec)
            endpoints = place.meet(sockets.endpoint)
            sockets.connect({neighbor: endpoints[neighbor] for neighbor in around.outgoing})
            for _ in range(self.warm + self.rounds + 1):
                mixer.mix()
                marks.append(Mark.now())
            sockets.flush()
        return marks
