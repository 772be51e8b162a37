"""Upload of a peer's records to a directory service that keeps them.

Parts of files are sent one by one, each after the answer to the one before. Where an answer is missing, or the service
was started again, all is sent again: files there are replaced only once they are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2pfl.errors import P2PFLError
from p2pfl.rendezvous.archive import PEER_FILES, RUN_FILES
from p2pfl.rendezvous.directory import DirectoryError
from p2pfl.rendezvous.wire import Answer, Refused, Request, Store, Stored
from p2pfl.run.identity import run_id_of
from p2pfl.run.mirror import PIECE_BYTES, Outgoing, Piece
from p2pfl.run.paths import CONFIG_FILE

Ask = Callable[[Request, float, Callable[[], bool]], Answer]


class UploadRefusedError(P2PFLError):
    """The service does not take the records; its text says why."""


class Upload:
    """Records of one peer on their way to the service, from one thread."""

    def __init__(self, run_dir: Path, peer_dir: Path, process: str) -> None:
        """`process`: name of the process in the peer's entry."""
        self._run_dir = run_dir
        self._peer_dir = peer_dir
        self._process = process
        self._service = ""
        self._waiting: list[Piece] = []
        self._sources = self._all()

    def step(self, ask: Ask, number: int, seconds: float, stopped: Callable[[], bool]) -> bool:
        """Send the next part; False if there is none.

        Raises DirectoryError where no answer comes, after which all is sent again, and UploadRefusedError.
        """
        run = run_id_of(self._run_dir, self._peer_dir)
        if run is None:
            return False  # the peer has not begun
        self._waiting = self._waiting or next((pieces for one in self._sources if (pieces := _next(one))), [])
        if not self._waiting:
            return False
        piece = self._waiting.pop(0)
        request = Store(
            number, self._process, run, piece.path, piece.size, piece.offset, piece.content, grows=piece.grows
        )
        try:
            answer = ask(request, seconds, stopped)
        except DirectoryError:
            self._begin_again()
            raise
        if isinstance(answer, Refused):
            raise UploadRefusedError(answer.reason)
        if isinstance(answer, Stored) and answer.service != self._service:
            is_first, self._service = not self._service, answer.service
            if not is_first:
                self._begin_again()
        return True

    def close(self) -> None:
        """Close the file that is being sent."""
        for source in self._sources:
            source.close()

    def _begin_again(self) -> None:
        self.close()
        self._waiting, self._sources = [], self._all()

    def _all(self) -> list[Outgoing]:
        """Sources of all that is sent.

        Settings come after what they need: a folder with settings is a run directory.
        """
        settings = [self._run_dir / name for name in RUN_FILES if name != CONFIG_FILE]
        own = [self._peer_dir / name for name in PEER_FILES]
        return [Outgoing(self._run_dir, parts) for parts in (settings, [self._run_dir / CONFIG_FILE], own)]


def _next(source: Outgoing) -> list[Piece]:
    """Next parts; removed files stay at the service."""
    return [piece for piece in source.take(PIECE_BYTES) if not piece.is_removed]
