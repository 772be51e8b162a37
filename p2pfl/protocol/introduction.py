"""Introduction of peers with own data: classes, sizes and statistics of all.

Before the model is built, every peer has to know the classes of all others. Each sends a description of its data to its
neighbors, which pass it on to theirs (flooding). A peer is done when it has the descriptions of all, and knows that
its neighbors have them too. What they have agreed on is compared once more by the greeting.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.protocol import events as ev
from p2pfl.protocol.wire import GREETING_BYTES, VERSION, Buffer, Header, Message

REPEAT_SECONDS = 2.0  # until a neighbor that has not said that it knows all is told again
_CHANNELS = 3

_ClassName = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Channels = Annotated[list[float], msgspec.Meta(min_length=_CHANNELS, max_length=_CHANNELS)]


class Introduction(msgspec.Struct, frozen=True, array_like=True):
    """Description of a peer's own data.

    classes: names of its classes. samples: of its training set. mean, std: of its training images, by channel.
    """

    classes: Annotated[list[_ClassName], msgspec.Meta(min_length=1)]
    samples: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    mean: _Channels
    std: _Channels


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Introduction)


def encode(introduction: Introduction) -> bytes:
    """The body of an `introduction`."""
    return _encoder.encode(introduction)


def decode(body: Buffer) -> Introduction:
    """Decode an introduction's body. Raises ProtocolError."""
    try:
        found = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(Refusal.GREETING, ascii(str(error))[1:81]) from None
    if not all(math.isfinite(value) for value in (*found.mean, *found.std)):
        raise ProtocolError(Refusal.GREETING, "statistics that are not finite")
    return found


def united_classes(introductions: Mapping[int, Introduction]) -> tuple[str, ...]:
    """Classes of all peers, in alphabetical order."""
    return tuple(sorted({name for one in introductions.values() for name in one.classes}))


def digest_of(introductions: Mapping[int, Introduction]) -> str:
    """Digest of what all peers have said."""
    text = b"".join(encode(introductions[peer]) for peer in sorted(introductions))
    return hashlib.sha256(text).hexdigest()


class Introductions:
    """One peer's side of the introduction: events in, messages out."""

    def __init__(self, me: int, peers: int, links: Collection[int], run: str, own: Introduction) -> None:
        self.known: dict[int, Introduction] = {me: own}
        self._me = me
        self._peers = peers
        self._links = sorted(links)
        self._run = run
        self._informed: set[int] = set()  # neighbors that know all
        self._told_at = 0.0

    @property
    def is_done(self) -> bool:
        """Whether this peer and all its neighbors know all."""
        return self._knows_all and self._informed >= set(self._links)

    @property
    def missing(self) -> list[int]:
        """Peers that are not known, or neighbors that do not know all."""
        unknown = [peer for peer in range(self._peers) if peer not in self.known]
        return unknown or [link for link in self._links if link not in self._informed]

    @property
    def _knows_all(self) -> bool:
        return len(self.known) == self._peers

    def start(self, now: float) -> list[ev.Send]:
        """Tell all neighbors about this peer."""
        self._told_at = now
        return [self._about(self._me, link) for link in self._links]

    def handle(self, event: ev.TransportEvent, now: float) -> list[ev.Send]:
        """React to an event of the transport."""
        if isinstance(event, ev.Reconnected):
            return [self._about(peer, event.neighbor) for peer in sorted(self.known)]
        return self._received(event.message) if isinstance(event, ev.Received) else []

    def tick(self, now: float) -> list[ev.Send]:
        """Tell neighbors again that have not said that they know all."""
        if now < self._told_at + REPEAT_SECONDS:
            return []
        self._told_at = now
        again = [link for link in self._links if link not in self._informed or not self._knows_all]
        return [self._about(peer, link, asks=True) for link in again for peer in sorted(self.known)]

    def _received(self, message: Message) -> list[ev.Send]:
        header = message.header
        if header.sender not in self._links or header.run != self._run:
            return []
        if header.kind != "introduction":  # it greets already: it knows all
            self._informed.add(header.sender)
            return []
        if header.scalars.get("known") == self._peers:
            self._informed.add(header.sender)
        subject = header.round
        if subject in self.known or subject >= self._peers:
            # It may be asking because this peer's own word that it knows all was lost.
            asks = self._knows_all and "asks" in header.scalars and subject == header.sender
            return [self._about(self._me, header.sender)] if asks else []
        try:
            self.known[subject] = decode(message.body)
        except ProtocolError:
            return []
        told = [self._about(subject, link) for link in self._links if link != header.sender]
        # The neighbor from which the last one came learns that this peer knows all.
        return told + ([self._about(self._me, link) for link in self._links] if self._knows_all else [])

    def _about(self, subject: int, link: int, asks: bool = False) -> ev.Send:
        body = encode(self.known[subject])
        known = {"known": float(len(self.known))} | ({"asks": 1.0} if asks else {})
        header = Header(VERSION, self._run, "introduction", self._me, subject, length=len(body), scalars=known)
        return ev.Send(link, Message(header, body))


def is_too_long(introduction: Introduction) -> bool:
    """Whether the names of classes are too many, or too long, to be sent."""
    return len(encode(introduction)) > GREETING_BYTES
