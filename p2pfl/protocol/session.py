"""What every process of a run does alike with messages: checks whose they are, counts refusals, writes its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Encoding, Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol import greeting
from p2pfl.protocol import messages as messages
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.wire import Kind, Message
from p2pfl.util.text import visible

# A neighbor with other settings or keys is never understood, which somebody should hear of before time is up.
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


class Session:
    """One process's side of the conversation with its neighbors in one run."""

    def __init__(self, context: PeerContext) -> None:
        self.context = context
        self.refused: Counter[str] = Counter()

    def check(self, message: Message) -> None:
        """Raises ProtocolError for a message of another run, of a stranger, or about another model.

        MismatchError, which names it, where a neighbor greets that was started with something else.
        """
        header = message.header
        unlike = self._difference(message) if header.kind == "hello" else None
        if unlike is not None:
            kind = greeting.MismatchError if header.sender in self.context.links else ProtocolError
            raise kind(Refusal.SETTINGS, unlike)
        if header.run != self.context.run:
            raise ProtocolError(Refusal.RUN, "another run, or a swarm with other settings")
        if header.sender not in self.context.links:
            raise ProtocolError(Refusal.SENDER, "no neighbor")
        if header.kind in ("hello", "chunk") and header.layout != self.context.layout:
            raise ProtocolError(Refusal.LAYOUT, "another model")

    def _difference(self, hello: Message) -> str | None:
        """What a process that greets was started with and this one was not, after its name."""
        theirs = greeting.decode(hello.body)
        if theirs == greeting.Greeting() != self.context.greeting:
            raise ProtocolError(Refusal.GREETING, "missing")
        found = greeting.difference(self.context.greeting, theirs)
        names, sender = self.context.names, hello.header.sender
        name = f"'{visible(names[sender], controls=True)}'" if sender < len(names) else f"number {sender}"
        return None if found is None else f"peer {name} {found}"

    def refuse(self, code: Refusal, detail: str) -> list[ev.Action]:
        """Count a message that is not taken; the first of its kind goes to the log."""
        self.refused[code.value] += 1
        return [ev.Note(f"refused a message: {code}: {detail}", code in _LOUD)] if self.refused[code] == 1 else []

    def say(self, kind: Kind, neighbor: int, round: int, about: Mapping[str, float] | None = None) -> ev.Send:
        """A message without a body; `about` are its scalars."""
        return ev.Send(neighbor, messages.control(self.context, kind, round, about))

    def deliver(
        self, round: int, encodings: Mapping[str, Encoding], items: Sequence[tuple[int, Payload]]
    ) -> list[ev.Action]:
        """Payloads of a round in chunks, each to its neighbor."""
        actions: list[ev.Action] = []
        for neighbor, payload in items:
            actions += [ev.Send(neighbor, m) for m in messages.payload(self.context, round, encodings, payload)]
        return actions
