"""Messages between peers and the directory service: typed MessagePack.

Each is one frame. A request is at most `REQUEST_BYTES`, an answer as long as its entries, or a part of a file. Whose a
request is the connection says, never its content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from p2pfl.rendezvous.entry import ENTRY_BYTES, Entry
from p2pfl.run.mirror import PIECE_BYTES

MOST_LISTED = 64  # files in one answer
REASON_CHARACTERS = 300
_PATH_CHARACTERS = 1000
REQUEST_BYTES = PIECE_BYTES + 4 * _PATH_CHARACTERS + ENTRY_BYTES + 512
FILES_BYTES = 4 * MOST_LISTED * (_PATH_CHARACTERS + 16) + PIECE_BYTES  # of an answer about files, at most
_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=_PATH_CHARACTERS)]
_Content = Annotated[bytes, msgspec.Meta(max_length=PIECE_BYTES)]


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
    replaces: _Text | None = None
    """Process that this one may replace, empty for none; None: whichever is announced."""


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


class Store(msgspec.Struct, frozen=True, tag=True):
    """Part of one of the peer's files, for a service that keeps records.

    `Stored` answers it.
    """

    number: _Count
    """Number of the request, which its answer repeats."""
    process: _Text
    """Random name of the process, which is to be the one that is announced."""
    run: _Text
    """Id of the peer's run: records of different runs are not mixed."""
    path: _Path
    """Path of the file in the peer's run directory."""
    size: _Count
    """Bytes of the whole file."""
    offset: _Count
    """Bytes of the file before this part."""
    content: _Content
    """The part."""
    grows: bool = False
    """The service has all bytes before; otherwise the file replaces the old one once it is whole."""


class Browse(msgspec.Struct, frozen=True, tag=True):
    """Question of a collector: which files are kept.

    A collector holds the token and is no peer.
    """

    number: _Count
    """Number of the request, which its answer repeats."""
    start: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    """Start of the run, as given with --rendezvous-run; none where only one is kept."""
    first: _Count = 0
    """Position in the list from which on files are named."""


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Question of a collector for part of a file; `Part` answers it."""

    number: _Count
    """Number of the request, which its answer repeats."""
    folder: _Path
    """Folder of the start, as the list has it."""
    path: _Path
    """Path of the file in that folder."""
    offset: _Count
    """Bytes of the file that are known already."""


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
    keeps_records: bool = False
    """The service keeps the peers' records, and waits for them."""


class Stored(msgspec.Struct, frozen=True, tag=True):
    """Answer: the part is written."""

    number: _Count
    """Number of the request."""
    service: _Text
    """Random name of the service's process; another one may lack what came before."""


class Listing(msgspec.Struct, frozen=True, tag=True):
    """Answer: files that are kept of a start, with their sizes."""

    number: _Count
    """Number of the request."""
    folder: _Path
    """Folder of the start."""
    files: Annotated[tuple[tuple[_Path, _Count], ...], msgspec.Meta(max_length=MOST_LISTED)] = ()
    """Path and bytes of each."""
    following: _Count = 0
    """Position from which on there are more; 0 if there are none."""


class Part(msgspec.Struct, frozen=True, tag=True):
    """Answer: part of a file."""

    number: _Count
    """Number of the request."""
    file: _Text
    """Identity of the file: another one has replaced it if this changes."""
    size: _Count
    """Bytes of the whole file."""
    content: _Content = b""
    """The part; empty at the end."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Answer: the request is refused for good."""

    number: _Count
    """Number of the request."""
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS)]
    """Reason, and what helps."""


Request = Announce | Query | Withdraw | Store | Browse | Fetch
Answer = Neighbors | Stored | Listing | Part | Refused
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
