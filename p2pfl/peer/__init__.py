"""The state machine of one peer: the pages to read first."""

from p2pfl.peer.machine import Peer

__all__ = ["Peer"]
