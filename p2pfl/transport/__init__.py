"""How messages travel: `ZmqTransport` over sockets and `MemoryTransport`, its in-process twin that still encodes."""

from p2pfl.transport.credentials import Credentials, Keys, Token
from p2pfl.transport.delayed import Delayed
from p2pfl.transport.faulty import Faulty
from p2pfl.transport.interface import Transport
from p2pfl.transport.memory import MemoryHub, MemoryTransport
from p2pfl.transport.zeromq import ZmqTransport

__all__ = [
    "Credentials",
    "Delayed",
    "Faulty",
    "Keys",
    "MemoryHub",
    "MemoryTransport",
    "Token",
    "Transport",
    "ZmqTransport",
]
