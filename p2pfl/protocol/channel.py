"""Channel of one process to its neighbors: checks, refusals, credit, repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import torch

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Encoding, Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol import greeting
from p2pfl.protocol.arrival import Form, UnusableError
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.inbox import Inbox
from p2pfl.protocol.outbox import Outbox
from p2pfl.protocol.wire import VERSION, Header, Kind, Message, chunks
from p2pfl.util.text import visible

# A neighbor with other settings or keys is never understood, which the user should know before time is up.
_LOUD = frozenset(
    {
        Refusal.RUN,
        Refusal.SETTINGS,
        Refusal.VERSION,
        Refusal.LAYOUT,
        Refusal.HANDSHAKE,
        Refusal.KEY,
        Refusal.TOKEN,
    }
)

_USELESS = frozenset({Refusal.VALUES, Refusal.INDICES, Refusal.ENCODING})  # a vector that would be no better next time


class Channel:
    """One process's side of the conversation with its neighbors in one run.

    `inbox` grants credit and assembles vectors, `outbox` keeps one round's payloads until they are acknowledged.
    """

    def __init__(self, context: PeerContext, size: int, form_of: Callable[[int], Form]) -> None:
        """Vectors have `size` elements; `form_of` says what is sent in a round."""
        self.inbox = Inbox(size, form_of, context.last_round)
        self.outbox = Outbox()
        self.flushed = True  # the transport has let go of all bodies
        self.refused: Counter[str] = Counter()
        self._context = context
        self._form_of = form_of
        self._incarnations: dict[int, int] = {}  # by neighbor, the newest that has greeted
        self._asked_again: set[tuple[int, int]] = set()  # (round, sender) of vectors of which a chunk was lost

    # Received

    def is_stale(self, header: Header) -> bool:
        """Whether a message is of an earlier incarnation of a neighbor than has greeted.

        What a killed process sent last may be read after the greeting of its next start, over another connection. Its
        credit and acknowledgements are void: the new process knows nothing of them. Introductions always count.
        """
        if header.kind == "introduction" or header.run != self._context.run:
            return False
        return header.incarnation < self._incarnations.get(header.sender, 0)

    def check(self, message: Message) -> None:
        """Refuse (ProtocolError) messages of another run, a stranger or another model.

        MismatchError, which names it, where a neighbor greets that was started with something else.
        """
        header, context = message.header, self._context
        unlike = self._difference(message) if header.kind == "hello" else None
        if unlike is not None:
            kind = greeting.MismatchError if header.sender in context.links else ProtocolError
            raise kind(Refusal.SETTINGS, unlike)
        if header.run != context.run:
            raise ProtocolError(Refusal.RUN, "another run, or a swarm with other settings")
        if header.sender not in context.links:
            raise ProtocolError(Refusal.SENDER, "no neighbor")
        if header.kind in ("hello", "chunk") and header.layout != context.layout:
            raise ProtocolError(Refusal.LAYOUT, "another model")
        if header.kind == "hello":
            self._incarnations[header.sender] = header.incarnation

    def _difference(self, hello: Message) -> str | None:
        """Difference of a greeting process from this one, after its name; or None."""
        theirs = greeting.decode(hello.body)
        if theirs == greeting.Greeting() != self._context.greeting:
            raise ProtocolError(Refusal.GREETING, "missing")
        found = greeting.difference(self._context.greeting, theirs)
        names, sender = self._context.names, hello.header.sender
        name = f"'{visible(names[sender], controls=True)}'" if sender < len(names) else f"number {sender}"
        return None if found is None else f"peer {name} {found}"

    def refuse(self, code: Refusal, detail: str) -> list[ev.Action]:
        """Count a message that is not taken; the first of its kind goes to the log."""
        self.refused[code.value] += 1
        return [ev.Note(f"refused a message: {code}: {detail}", code in _LOUD)] if self.refused[code] == 1 else []

    def take_chunk(self, message: Message) -> bool:
        """Take a chunk; whether its vector is whole. Raises ProtocolError."""
        is_whole = self.inbox.add(message)
        self._asked_again.discard((message.header.round, message.header.sender))
        return is_whole

    def bad_chunk(self, header: Header, problem: Refusal) -> list[ev.Action]:
        """Ask again for a vector that lost a chunk; give up one that is not finite."""
        key = header.round, header.sender
        if problem is Refusal.OFFSET and key not in self._asked_again:
            self._asked_again.add(key)
            return [self.message("grant", header.sender, header.round)]
        if problem not in _USELESS or not self.inbox.has(*key) or self.inbox.is_whole(*key):
            return []
        self.inbox.drop(*key)
        return [self.message("ack", header.sender, header.round)]

    def take(self, round: int, sender: int) -> Payload | None:
        """Take a whole payload; None where there is none, or none that can be used."""
        try:
            return self.inbox.take(round, sender)
        except UnusableError as error:
            self.refuse(error.code, error.detail)
            return None

    def give_up(self, round: int, senders: Sequence[int]) -> list[ev.Action]:
        """Tell of vectors that are given up while they are added.

        Their numbers are not finite any longer; they are treated like those that came so.
        """
        refused = [note for n in senders for note in self.refuse(Refusal.VALUES, f"not finite, from {n}")]
        return [*refused, *(self.message("ack", sender, round) for sender in senders)]

    def granted(self, header: Header) -> list[ev.Action]:
        """Use a neighbor's credit. Raises ProtocolError for a round that does not exist."""
        if header.round > self._context.last_round:
            raise ProtocolError(Refusal.ROUND, f"credit for round {header.round}")
        return self.deliver(self.outbox.round, self.outbox.granted(header.sender, header.round, self.flushed))

    # Sent

    def message(self, kind: Kind, neighbor: int, round: int, about: Mapping[str, float] | None = None) -> ev.Send:
        """Send a control message; `about` are its scalars. Only a greeting has a body."""
        context, greets = self._context, kind == "hello"
        body = greeting.encode(context.greeting) if greets else b""
        header = Header(
            VERSION,
            context.run,
            kind,
            context.me,
            round,
            layout=context.layout if greets else "",
            length=len(body),
            scalars=dict(about or {}),
            incarnation=context.incarnation,
        )
        return ev.Send(neighbor, Message(header, body))

    def resend(self, neighbor: int) -> list[ev.Action]:
        """Repeat grants and acknowledgements; a neighbor ignores what it has."""
        again: list[ev.Action] = [self.message("grant", neighbor, round) for round in self.inbox.granted_to(neighbor)]
        return again + [self.message("ack", neighbor, round) for round in self.inbox.taken_from(neighbor)]

    def remind(self, neighbor: int) -> list[ev.Action]:
        """Repeat grants and acknowledgements once everything sent before has left.

        Behind a vector on a slow link they would come so late that the neighbor sends again what is here by then.
        """
        if not self.flushed and self.outbox.is_sending:
            self.outbox.asked_again = True  # so that a flush is noticed; the next reminder follows it
            return []
        return self.resend(neighbor)

    def deliver(self, round: int, items: Sequence[tuple[int, Payload]]) -> list[ev.Action]:
        """Send payloads of a round in chunks, each to its neighbor."""
        self.flushed = self.flushed and not items
        encodings = self._form_of(round).encodings
        return [ev.Send(n, message) for n, payload in items for message in self._chunks(round, encodings, payload)]

    def _chunks(self, round: int, encodings: Mapping[str, Encoding], payload: Payload) -> Iterator[Message]:
        """A payload as chunks that are views of its vectors, each given as one piece."""
        context = self._context
        header = Header(
            version=VERSION,
            run=context.run,
            kind="chunk",
            sender=context.me,
            round=round,
            layout=context.layout,
            scalars=dict(payload.scalars),
            incarnation=context.incarnation,
        )
        for name, (vector,) in payload.vectors.items():
            template = msgspec.structs.replace(header, codec=encodings[name].name)
            yield from chunks(template, {name: vector.view(torch.uint8).numpy().data}, payload.is_stable)

    def on_flushed(self) -> None:
        """Note that no body is being sent; a neighbor that misses something asks again."""
        self.flushed, self.outbox.asked_again = True, False
