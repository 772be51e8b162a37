"""Messages between peers and the directory service: typed MessagePack.

Each is one frame. A request is at most `REQUEST_BYTES`, an answer as long as its entries. Whose a request is the
connection says, never its content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from p2pfl.rendezvous.entry import ENTRY_BYTES, Entry

REQUEST_BYTES = ENTRY_BYTES + 512
_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Announce(msgspec.Struct, frozen=True, tag=True):
    """Announcement of a peer, and question for new entries of its neighbors."""

    number: _Count
    """Number of the request, which its answer repeats."""
    entry: Entry
    """Entry of the peer."""
    service: _Text = ""
    """Service whose revision the peer knows; another one has been started since."""
    revision: _Count = 0
    """Revision of the directory that the peer knows."""


class Query(msgspec.Struct, frozen=True, tag=True):
    """Question for the entry of the asking peer itself."""

    number: _Count
    """Number of the request, which its answer repeats."""


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """Withdrawal of a peer's entry, if it is that of this process."""

    number: _Count
    """Number of the request, which its answer repeats."""
    process: _Text
    """Random name of the process."""


class Neighbors(msgspec.Struct, frozen=True, tag=True):
    """Answer: entries of neighbors that have changed since the peer's revision."""

    number: _Count
    """Number of the request."""
    service: _Text
    """Random name of the service's process."""
    revision: _Count
    """Revision of the directory."""
    entries: tuple[Entry, ...] = ()
    """Changed entries."""
    is_superseded: bool = False
    """Another process has announced itself as this peer since."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Answer: the request is refused for good."""

    number: _Count
    """Number of the request."""
    reason: Annotated[str, msgspec.Meta(max_length=300)]
    """Reason, and what helps."""


Request = Announce | Query | Withdraw
Answer = Neighbors | Refused
encode = msgspec.msgpack.Encoder().encode
_decode_request: Callable[[bytes], Request] = msgspec.msgpack.Decoder(Request).decode
_decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode
_TROUBLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_request(data: bytes) -> Request | None:
    """Decode a request; None where it is none."""
    if len(data) > REQUEST_BYTES:
        return None
    try:
        return _decode_request(data)
    except _TROUBLE:
        return None


def decode_answer(data: bytes) -> Answer | None:
    """Decode an answer; None where it is none."""
    try:
        return _decode_answer(data)
    except _TROUBLE:
        return None


def answer_bytes(neighbors: int) -> int:
    """Bytes at most of an answer about so many neighbors, or about the peer itself."""
    return ENTRY_BYTES * max(neighbors, 1) + 1024
