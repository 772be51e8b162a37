"""A text stream that a closed pipe silences instead of ending the run."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Any

from p2pfl.util.text import visible


class SafeStream:
    """Passes text on to a stream for as long as there is one; `error` says what went wrong with it, if anything."""

    def __init__(self, stream: IO[str] | None) -> None:
        self.error: Exception | None = None
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what the encoding can hold, invisible characters as escapes; nothing once the stream is gone."""
        shown = visible(text)
        if self._stream is not None and self.error is None:
            try:
                try:
                    self._stream.write(shown)
                except UnicodeEncodeError:
                    self._stream.write(shown.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush unless the stream is gone."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether a person is looking."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError) as error:
            self.error = error
            return False

    def shows(self, stream: IO[str]) -> bool:
        """Whether text goes on to just this stream."""
        return self._stream is stream

    def full(self) -> bool:
        """Whether text got lost that somebody wants: not where the reader has left, as `head` does."""
        self.flush()
        return self.error is not None and not isinstance(self.error, BrokenPipeError)

    def discard(self) -> None:
        """Send what a broken stream still holds nowhere, so that Python does not complain about it at its exit."""
        self.flush()
        if self._stream is not None and isinstance(self.error, OSError):
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
