"""Download of all peers' records from a directory service that keeps them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from p2pfl.errors import ConfigError, P2PFLError, unwritable
from p2pfl.rendezvous.archive import FILE_BYTES
from p2pfl.rendezvous.client import ANSWER_SECONDS, ServiceClient
from p2pfl.rendezvous.directory import DirectoryError
from p2pfl.rendezvous.wire import Answer, Browse, Fetch, Listing, Part, Refused, Request
from p2pfl.run.mirror import Incoming, Piece

_TRIES = 5  # for a file that is replaced while it is read
_ASKED_BEFORE = 3  # times that a request is repeated without an answer; none changes anything at the service


def download(client: ServiceClient, start: str | None, target: Path) -> None:
    """Download the records of a start into a folder: a run directory for each peer.

    `start`: as given with --rendezvous-run; None: the only one that the service has. Raises P2PFLError where the
    service does not answer, has no such records, or files cannot be written.
    """
    source, first = _Source(client), 0
    while True:
        listing = source.ask(Browse(source.next_number(), start, first))
        if not isinstance(listing, Listing):
            raise P2PFLError(f"{client.where}: its answer is not the list that was asked for")
        for path, _ in listing.files:
            _fetch(source, listing.folder, path, target)
        first = listing.following
        if not first:
            return


class _Source:
    """The service, as a collector asks it."""

    def __init__(self, client: ServiceClient) -> None:
        self.where = client.where
        self._client = client
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def ask(self, request: Request) -> Answer:
        answer = self._answer(request)
        if isinstance(answer, Refused):
            raise ConfigError(f"{self.where}: {answer.reason}")
        return answer

    def _answer(self, request: Request) -> Answer:
        """Ask again where no answer comes, each time over a new connection.

        On a busy machine a service may lose the first request of a collector that follows another one at once.
        """
        for _ in range(_ASKED_BEFORE):
            with contextlib.suppress(DirectoryError):
                return self._client.ask(request, ANSWER_SECONDS, lambda: False)
        return self._client.ask(request, ANSWER_SECONDS, lambda: False)

    def part(self, folder: str, path: str, offset: int) -> Part:
        part = self.ask(Fetch(self.next_number(), folder, path, offset))
        if not isinstance(part, Part) or part.size > FILE_BYTES:
            raise P2PFLError(f"{self.where}: its answer is not the part of {path} that was asked for")
        return part


def _fetch(source: _Source, folder: str, path: str, target: Path) -> None:
    """Download one file, as it is at one time.

    What grows meanwhile is left for the next time.
    """
    incoming = Incoming(target)
    for _ in range(_TRIES):
        part = first = source.part(folder, path, 0)
        offset = 0
        while part.file == first.file and (part.content or offset == first.size):
            content = part.content[: first.size - offset]
            try:
                incoming.put(Piece(path, offset, content, first.size))
            except OSError as error:
                raise ConfigError(f"--run-dir {unwritable(target, error)}, or choose another") from None
            offset += len(content)
            if offset == first.size:
                return
            part = source.part(folder, path, offset)
    raise P2PFLError(f"{source.where}: {path} changes all the time; repeat the command")
