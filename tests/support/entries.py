"""Entries of made-up peers in a directory."""

from __future__ import annotations

import zmq

from p2pfl.rendezvous.book import Book
from p2pfl.rendezvous.entry import Entry, Identity

RUN = Identity("topology", "settings", "job 1")
NAMES = {1: "bob", 2: "carol"}


def entry(peer: int = 1, address: str = "tcp://10.0.0.2:7000", **changed: object) -> Entry:
    fields = {"identity": RUN, "process": f"process-{peer}", **changed}
    return Entry(peer=peer, address=address, **fields)  # type: ignore[arg-type]


def book(**options: bool) -> Book:
    return Book(RUN, NAMES, **options)


def public_key() -> str:
    return zmq.curve_keypair()[0].decode()
