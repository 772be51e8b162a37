"""Transports: ZeroMQ sockets, shared memory, an in-process twin, link conditioner."""

from p2pfl.transport.conditioner import Conditioner, ScriptedFaults, constant_delay
from p2pfl.transport.credentials import AnnouncedKeys, Credentials, Keys, Token
from p2pfl.transport.interface import Transport
from p2pfl.transport.memory import MemoryHub, MemoryTransport
from p2pfl.transport.shared_memory import SharedMemoryTransport
from p2pfl.transport.zeromq import ZmqTransport

__all__ = [
    "AnnouncedKeys",
    "Conditioner",
    "Credentials",
    "Keys",
    "MemoryHub",
    "MemoryTransport",
    "ScriptedFaults",
    "SharedMemoryTransport",
    "Token",
    "Transport",
    "ZmqTransport",
    "constant_delay",
]
