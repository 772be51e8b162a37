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

AT_ONCE = 64  # words about others that a neighbor is sent at a time; a link takes some hundred messages
MOST_CLASSES = 10_000  # of all peers together

_ClassName = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_Statistic = Annotated[float, msgspec.Meta(ge=-1e3, le=1e3)]  # of images whose values are 0 to 1
_Channels = Annotated[list[_Statistic], msgspec.Meta(min_length=_CHANNELS, max_length=_CHANNELS)]


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
    if not all(math.isfinite(value) for value in (*found.mean, *found.std)):  # no limit refuses NaN
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
    """One peer's side of the introduction: events in, messages out.

    What a neighbor says of itself counts, and nobody else's word about it. Of a peer that is no neighbor the first word
    counts; where two peers have heard different ones, the greeting refuses.
    """

    def __init__(self, me: int, peers: int, links: Collection[int], run: str, own: Introduction) -> None:
        self.known: dict[int, Introduction] = {me: own}
        self._me = me
        self._peers = peers
        self._links = sorted(links)
        self._run = run
        self._heard: set[int] = set()  # neighbors that read what they are sent
        self._informed: set[int] = set()  # neighbors that know all
        self._told_at = 0.0
        self._ticks = 0

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
            return self._some(event.neighbor)
        return self._received(event.message) if isinstance(event, ev.Received) else []

    def tick(self, now: float) -> list[ev.Send]:
        """Tell neighbors again that have not said that they know all.

        One that has said nothing yet is told less and less often: what it was sent waits for it in the link.
        """
        if now < self._told_at + REPEAT_SECONDS:
            return []
        self._told_at, self._ticks = now, self._ticks + 1
        again = [link for link in self._links if link in self._heard - (self._informed if self._knows_all else set())]
        sends = [send for link in again for send in self._some(link, asks=True)]
        if self._ticks.bit_count() == 1:  # 1, 2, 4, 8, …
            sends += [self._about(self._me, link, asks=True) for link in self._links if link not in self._heard]
        return sends

    def _received(self, message: Message) -> list[ev.Send]:
        header = message.header
        if header.sender not in self._links or header.run != self._run:
            return []
        is_new = header.sender not in self._heard
        self._heard.add(header.sender)
        sends = self._some(header.sender) if is_new else []
        if header.kind != "introduction":  # it greets already: it knows all
            self._informed.add(header.sender)
            return sends
        if header.scalars.get("known") == self._peers:
            self._informed.add(header.sender)
        return sends + self._learned(header, message.body)

    def _learned(self, header: Header, body: Buffer) -> list[ev.Send]:
        """Take a word about a peer, and pass it on."""
        subject = header.round
        if subject in self.known or subject >= self._peers:
            # It may be asking because this peer's own word that it knows all was lost.
            asks = self._knows_all and "asks" in header.scalars and subject == header.sender
            return [self._about(self._me, header.sender)] if asks else []
        if subject in self._links and subject != header.sender:
            return []  # it will introduce itself
        try:
            self.known[subject] = decode(body)
        except ProtocolError:
            return []
        told = [self._about(subject, link) for link in self._links if link in self._heard - {header.sender}]
        # The neighbor from which the last one came learns that this peer knows all.
        all_known = [self._about(self._me, link) for link in self._links if link in self._heard]
        return told + (all_known if self._knows_all else [])

    def _some(self, link: int, asks: bool = False) -> list[ev.Send]:
        """This peer's own word, and words about some others, in turn."""
        others = [peer for peer in sorted(self.known) if peer != self._me]
        first = self._ticks * AT_ONCE % max(len(others), 1)
        window = [*others[first:], *others[:first]][:AT_ONCE]
        return [self._about(subject, link, asks) for subject in (self._me, *window)]

    def _about(self, subject: int, link: int, asks: bool = False) -> ev.Send:
        scalars = {"asks": 1.0} if asks else {}
        message = word(self._run, self._me, subject, self.known[subject], len(self.known), scalars)
        return ev.Send(link, message)


class Introducer:
    """A peer at work, which introduces all to a neighbor that starts later."""

    def __init__(self, me: int, links: Collection[int], run: str, known: Mapping[int, Introduction]) -> None:
        """`known`: what all peers have said; empty where nobody introduces itself."""
        self._me = me
        self._links = links
        self._run = run
        self._known = sorted(known.items())
        self._answers = 0

    def answer(self, header: Header) -> list[ev.Send]:
        """Answer a neighbor's own word, which it repeats, with some others' in turn."""
        neighbor = header.sender
        if header.run != self._run or neighbor not in self._links or header.round != neighbor or not self._known:
            return []
        first = self._answers * AT_ONCE % len(self._known)
        self._answers += 1
        own = [item for item in self._known if item[0] == self._me]
        window = [*self._known[first:], *self._known[:first]][:AT_ONCE]
        count = len(self._known)
        return [ev.Send(neighbor, word(self._run, self._me, who, what, count)) for who, what in (*own, *window)]


def word(
    run: str, me: int, subject: int, what: Introduction, known: int, scalars: Mapping[str, float] | None = None
) -> Message:
    """Message of a peer that knows so many about one of them."""
    body = encode(what)
    header = Header(
        VERSION, run, "introduction", me, subject, length=len(body), scalars={"known": float(known), **(scalars or {})}
    )
    return Message(header, body)


def is_too_long(introduction: Introduction) -> bool:
    """Whether the names of classes are too many, or too long, to be sent."""
    return len(encode(introduction)) > GREETING_BYTES
