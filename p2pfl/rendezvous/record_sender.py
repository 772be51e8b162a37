"""Sender of a peer's records to a directory that keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable

from p2pfl.errors import P2PFLError
from p2pfl.rendezvous.book import News
from p2pfl.rendezvous.directory import Directory, DirectoryError
from p2pfl.rendezvous.upload import Upload

LAST_SECONDS = 60.0  # at most, for the last records
_PARTS = 16  # of records at a time, 1 MiB at most
_TRIES = 2  # to send the last records again from the start
Say = Callable[[News], None]


class RecordSender:
    """Upload of one peer's records, part by part, until its end or a refusal."""

    def __init__(self, directory: Directory, upload: Upload, say: Say) -> None:
        """`say` is told when records are first sent, and why they are not."""
        self._directory = directory
        self._upload = upload
        self._say = say
        self._has_begun = self._is_refused = False

    def send(self, stopped: Callable[[], bool]) -> bool:
        """Send some records; whether there may be more."""
        if self._is_refused:
            return False
        try:
            for _ in range(_PARTS):
                if not self._directory.record(self._upload, stopped):
                    return False
                self._say_first()
            return True
        except DirectoryError:
            return False  # the next look says so
        except (P2PFLError, OSError) as error:
            self._say(News(f"{self._directory.where} does not keep this peer's records: {error}", matters=True))
            self._is_refused = True
            return False

    def _say_first(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            what = "its settings, rounds, label counts and log"
            self._say(News(f"sends its records ({what}; no weights) to {self._directory.where}, which keeps them"))

    def send_last(self) -> None:
        """Send what the peer has written until its end, for LAST_SECONDS at most."""
        if self._is_refused:
            return
        deadline = time.monotonic() + LAST_SECONDS
        for _ in range(_TRIES):
            try:
                while self._directory.record(self._upload, lambda: time.monotonic() > deadline):
                    pass
                return
            except DirectoryError as error:
                reason = str(error)
            except (P2PFLError, OSError) as error:
                reason = str(error)
                break
        rest = "name this peer's run directory to p2pfl collect, besides the service"
        self._say(News(f"its last records have not reached the service: {reason}; {rest}", matters=True))

    def close(self) -> None:
        """Close the files that are being sent."""
        self._upload.close()
