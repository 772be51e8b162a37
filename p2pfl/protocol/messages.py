"""The messages that a process writes: the counterpart of what its inbox reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import torch

from p2pfl.payload import Encoding, Payload
from p2pfl.protocol import greeting
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.wire import VERSION, Header, Kind, Message, chunks


def control(context: PeerContext, kind: Kind, round: int, about: Mapping[str, float] | None = None) -> Message:
    """A message without numbers; `about` are its scalars. Only a greeting has a body."""
    greets = kind == "hello"
    body = greeting.encode(context.greeting) if greets else b""
    layout = context.layout if greets else ""
    header = Header(
        VERSION, context.run, kind, context.me, round, layout=layout, length=len(body), scalars=dict(about or {})
    )
    return Message(header, body)


def payload(context: PeerContext, round: int, encodings: Mapping[str, Encoding], content: Payload) -> Iterator[Message]:
    """A payload as chunks that are views of its vectors, each given as one piece."""
    header = Header(
        version=VERSION,
        run=context.run,
        kind="chunk",
        sender=context.me,
        round=round,
        layout=context.layout,
        scalars=dict(content.scalars),
    )
    for name, (vector,) in content.vectors.items():
        template = msgspec.structs.replace(header, codec=encodings[name].name)
        yield from chunks(template, {name: vector.view(torch.uint8).numpy().data})
