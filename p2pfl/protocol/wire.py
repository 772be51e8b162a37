"""Wire format: messages as two frames, their encoding, limits and checks.

A message is exactly two frames: a small MessagePack header and a body. Chunks have one, up to 1 MiB of raw
little-endian numbers, greetings: what the sender was started with (`protocol.greeting`), and introductions: what a
peer's own data are like (`protocol.introduction`). A vector travels as
consecutive chunks, because whole vectors in one frame let ZeroMQ's heartbeats time out on slow links, and because
chunks of 1 MiB are more than twice as fast.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import msgspec

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import COMPRESSED, WIRE_ENCODINGS

VERSION = 8
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 2048
GREETING_BYTES = 1 << 15  # of a greeting's body
MAX_ROUND = 10**9
MAX_PEERS = 10**6
MAX_VECTOR_BYTES = 1 << 40
MAX_SCALARS = 16
MAX_INCARNATION = 1 << 53
MAX_TEXT = 160  # characters of a reason that may quote a stranger

assert sys.byteorder == "little", "bodies are sent as they lie in memory"

Kind = Literal[
    "hello",
    "offer",
    "grant",
    "chunk",
    "ack",
    "edge_down",
    "heartbeat",
    "goodbye",
    "introduction",
    "segment",
    "mapped",
    "reference",
    "release",
]
KINDS: Mapping[Kind, str] = {
    "hello": "Greeting of a new edge epoch: first round that the sender can serve, and what it was started with.",
    "offer": "A client has trained in this round and offers its update to the coordinator.",
    "grant": "Credit for this round's payload: its vectors may be sent. A client asks so for the model of this round.",
    "chunk": "Part of a vector of this round's payload, at most 1 MiB.",
    "ack": "Acknowledgment of this round's payload, which the sender of the message has as a whole.",
    "edge_down": "The sender continues without this neighbor: the edge goes down at both ends.",
    "heartbeat": "The sender is at work, though it has nothing else to say.",
    "goodbye": "The sender has finished its last round; a coordinator dismisses its clients.",
    "introduction": "Description of a peer's own data (--partition own); that peer's number takes the round's place.",
    "segment": "Offer of shared memory: what a neighbor on the same machine may map, read-only.",
    "mapped": "Answer to that offer, or to a reference that cannot be mapped: whether the sender has mapped it.",
    "reference": "Chunks of a vector that lie in the sender's shared memory, in the place of the chunks themselves.",
    "release": "References whose memory the sender of the message does not read any longer.",
}
"""Meaning of each kind of message."""
SHARED_MEMORY_KINDS: frozenset[Kind] = frozenset({"segment", "mapped", "reference", "release"})
"""Kinds between transports, of which no protocol hears."""
_WITH_BODY = frozenset({"hello", "introduction", "segment", "mapped", "reference", "release"})
_WITH_CODEC = frozenset({"chunk", "reference"})
Buffer = bytes | bytearray | memoryview

_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_VECTOR_BYTES)]


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Header of every message; offset and length count bytes of a vector's body."""

    version: int
    """Version of this format."""
    run: _Text
    """Id of the run; messages of other runs are refused."""
    kind: Kind
    """Kind of the message."""
    sender: Annotated[int, msgspec.Meta(ge=0, lt=MAX_PEERS)]
    """Number of the sending process, in peer order."""
    round: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROUND)]
    """Round that the message is about, where each exchange after a training counts; 0 where it is about none."""
    codec: _Text = ""
    """Number format of a chunk: fp32, bf16, or compressed, an algorithm's own."""
    layout: _Text = ""
    """Digest of the model's layout as a flat vector, in greetings and chunks."""
    vector: _Text = ""
    """Name of a chunk's vector in its payload; x is the model."""
    offset: _Size = 0
    """Bytes of the vector before this chunk."""
    length: _Size = 0
    """Bytes of the body."""
    scalars: Annotated[dict[_Text, float], msgspec.Meta(max_length=MAX_SCALARS)] = {}
    """Numbers by name: of a greeting the epochs and rounds of its edge, of a chunk the payload's scalars."""
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=MAX_INCARNATION)] = 0
    """Number of the sending process's start; messages of earlier ones than the one that greeted last are dropped."""
    total: _Size = 0
    """Bytes of a chunk's whole vector, where its format is compressed."""


@dataclass(frozen=True)
class Message:
    """A header and its body: a chunk's numbers, a greeting, or nothing.

    What does not travel: `ends`: it is the last chunk of a vector that is being sent. `is_shared`: the body is memory
    that its sender may still write, so numbers must be copied before they are checked and used. `is_stable`: as of the
    payload that is being sent.
    """

    header: Header
    body: Buffer = b""
    ends: bool = field(default=False, compare=False)
    is_shared: bool = field(default=False, compare=False)
    is_stable: bool = field(default=False, compare=False)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.header.length

    def after(self, offset: int) -> Message:
        """The chunk without what comes before an offset within it."""
        header = self.header
        left = header.offset + header.length - offset
        body = memoryview(self.body)[header.length - left :]
        return replace(self, header=msgspec.structs.replace(header, offset=offset, length=left), body=body)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode(message: Message) -> tuple[bytes, Buffer]:
    """The two frames of a message; the body is not copied."""
    return _encoder.encode(message.header), message.body


def decode(frames: Sequence[Buffer]) -> Message:
    """Decode two frames, without a copy of the body. Raises ProtocolError."""
    if len(frames) != 2:
        raise ProtocolError(Refusal.FRAMES, f"{len(frames)} instead of 2")
    head, body = (memoryview(frame).cast("B") for frame in frames)
    if head.nbytes > HEADER_BYTES:
        raise ProtocolError(Refusal.HEADER, f"{head.nbytes} bytes, more than {HEADER_BYTES}")
    try:
        header = _decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(Refusal.HEADER, ascii(str(error))[1 : MAX_TEXT + 1]) from None  # it may quote the sender
    if header.version != VERSION:
        raise ProtocolError(
            Refusal.VERSION, f"{header.version} instead of {VERSION}; install the same p2pfl everywhere"
        )
    if header.scalars and not all(map(math.isfinite, header.scalars.values())):
        raise ProtocolError(Refusal.SCALARS, "not finite")
    if body.nbytes != header.length:
        raise ProtocolError(Refusal.LENGTH, f"the header says {header.length} bytes, the body has {body.nbytes}")
    if header.kind == "chunk":
        if not 0 < header.length <= CHUNK_BYTES:
            raise ProtocolError(Refusal.LENGTH, f"a chunk of {header.length} bytes")
        check_numbers(header)
    elif (header.codec and header.kind not in _WITH_CODEC) or (header.length and header.kind not in _WITH_BODY):
        raise ProtocolError(Refusal.LENGTH, f"a {header.kind} has no body")
    elif header.length > GREETING_BYTES:
        raise ProtocolError(Refusal.LENGTH, f"a {header.kind} of {header.length} bytes")
    return Message(header, body)


def check_numbers(header: Header) -> None:
    """Raise ProtocolError where a chunk's number format and length do not fit."""
    if not header.codec:
        raise ProtocolError(Refusal.CODEC, "missing")
    encoding = WIRE_ENCODINGS.get(header.codec)
    if encoding is None:
        raise ProtocolError(Refusal.HEADER, f"unknown codec {header.codec!a}")
    if header.length % encoding.item_bytes or header.offset % encoding.item_bytes:
        raise ProtocolError(Refusal.LENGTH, "a chunk ends within a number")
    if encoding is COMPRESSED and header.offset + header.length > header.total:
        raise ProtocolError(Refusal.LENGTH, f"a chunk beyond the vector's {header.total} bytes")


def chunks(template: Header, vectors: Mapping[str, memoryview], is_stable: bool = False) -> Iterator[Message]:
    """Split a payload into messages: chunks of each vector in order, as views.

    `template` has kind, sender, round, codec, layout and scalars; every chunk repeats them, so that none depends
    on another.
    """
    total = template.codec == COMPRESSED.name
    for name, data in vectors.items():
        for offset in range(0, data.nbytes, CHUNK_BYTES):
            body = data[offset : offset + CHUNK_BYTES]
            fields = {"vector": name, "offset": offset, "length": body.nbytes, "total": data.nbytes if total else 0}
            header, ends = msgspec.structs.replace(template, **fields), offset + body.nbytes == data.nbytes
            yield Message(header, body, ends, is_stable=is_stable)


def chunk_count(vector_bytes: int) -> int:
    """Number of chunks of a vector of that many bytes."""
    return -(-vector_bytes // CHUNK_BYTES)
