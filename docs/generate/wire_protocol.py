"""Messages between processes: their kinds, header, limits and refusals."""

from __future__ import annotations

from typing import get_args

from docs.generate.descriptions import fields_of, type_text
from docs.generate.markdown import code, prose, table
from p2pfl.errors import REFUSALS, Refusal
from p2pfl.protocol import wire
from p2pfl.protocol.inbox import WINDOW
from p2pfl.rendezvous import entry
from p2pfl.rendezvous import wire as directory_wire


def kinds() -> str:
    """Kinds of messages. Raises KeyError for one without a meaning."""
    return table(("kind", "meaning"), [(code(kind), prose(wire.KINDS[kind])) for kind in get_args(wire.Kind)])


def header() -> str:
    """Fields of a header, in the order in which they are encoded."""
    rows = [
        (
            str(place),
            code(item.name),
            ", ".join(map(code, get_args(wire.Kind))) if item.name == "kind" else _type(item.hint),
            prose(item.text),
        )
        for place, item in enumerate(fields_of(wire.Header))
    ]
    return table(("", "field", "type", "meaning"), rows)


def _type(hint: object) -> str:
    return type_text(hint, bounds=True)


def limits() -> str:
    """Limits of messages, beyond which they are refused."""
    rows = [
        ("Version of the format", f"{wire.VERSION}"),
        ("Header", f"{wire.HEADER_BYTES:,} bytes"),
        ("Body of a chunk", f"{wire.CHUNK_BYTES:,} bytes"),
        ("Body of a greeting", f"{wire.GREETING_BYTES:,} bytes"),
        ("Vector", f"{wire.MAX_VECTOR_BYTES:,} bytes"),
        ("Scalars of a message", f"{wire.MAX_SCALARS}"),
        ("Vectors for which a process has granted credit and that are not averaged yet", f"{WINDOW}"),
    ]
    return table(("limit", "value"), rows)


def directory() -> str:
    """Messages of the directory service, and what they hold, a table each."""
    requests = (
        directory_wire.Announce,
        directory_wire.Withdraw,
        directory_wire.Store,
        directory_wire.Browse,
        directory_wire.Fetch,
    )
    answers = (
        directory_wire.Neighbors,
        directory_wire.Stored,
        directory_wire.Listing,
        directory_wire.Part,
        directory_wire.Refused,
    )
    kinds = (*requests, *answers)
    parts = []
    for kind in (*kinds, entry.Entry, entry.Identity):
        rows = [(code(item.name), _type(item.hint), prose(item.text)) for item in fields_of(kind)]
        summary = (kind.__doc__ or "").splitlines()[0]
        parts.append(f"### {kind.__name__}\n\n{prose(summary)}\n\n" + table(("field", "type", "meaning"), rows))
    return "\n\n".join(parts)


def refusals() -> str:
    """Reasons of refusal. Raises KeyError for one without a meaning."""
    return table(("code", "reason"), [(code(str(one)), prose(REFUSALS[one])) for one in Refusal])
